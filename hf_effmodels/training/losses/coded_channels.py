"""The first stage of MAHPPO's code (https://arxiv.org/abs/2205.11854): fewer channels, of which the features come
back."""

from torch.nn import functional as F

from .checks import exact
from .interface import DistillationLoss, Networks

#: What the code is given, and what comes back.
_BEFORE, _AFTER = "code.codec.encoder:input", "code.codec.decoder"


class CodedChannelsLoss(DistillationLoss):
    """Smooth L1 between features and what is left of them, the mean over all numbers. The published objective has a
    tenth of the labels' cross entropy beside it (`--labels_weight 0.1`).

    Args:
        weight: see `DistillationLoss`.
    """

    name = "coded_channels"
    needs_teacher = False

    def student_features(self):
        return (_BEFORE, _AFTER)

    def build(self, networks: Networks) -> None:
        if networks.student[_BEFORE].layout != "maps":
            raise ValueError(f"at: got features {networks.student[_BEFORE].shape}, accepted are channels of maps.")

    def forward(self, student, teacher, batch):
        return F.smooth_l1_loss(exact(student[_AFTER]), exact(student[_BEFORE]).detach())
