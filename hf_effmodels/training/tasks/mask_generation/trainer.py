"""The losses of promptable segmentation, with and without a teacher."""

import torch
from torch.nn import functional as F

from ...losses.checks import exact
from ...losses.mask_distillation import dice_loss, focal_loss, mask_distances, mask_hardness, mask_iou
from ...run.trainer import RecipeTrainer
from .arguments import TeacherArguments
from .outputs import Outputs, segment
from .prompts import best_masks, boxes_around, points_in
from .teacher import Teacher


class MaskGenerationTrainer(RecipeTrainer):
    """Trains a SAM on hard prompts: against the ground truth, and with a teacher stage by stage.

    Args:
        weights: of the losses. teacher: None where the ground truth alone teaches.
    """

    def __init__(self, *, weights: TeacherArguments, teacher: Teacher | None, **kwargs):
        super().__init__(**kwargs)
        self.weights, self.teacher = weights, teacher
        if teacher is not None:
            teacher.model.to(self.args.device)

    def task_loss(self, model, inputs, num_items_in_batch=None):
        student = self.accelerator.unwrap_model(model)
        points = hard_points(student, inputs)
        outputs = segment(student, points, network=model, pixel_values=inputs["pixel_values"])
        loss = supervised_loss(outputs, inputs["masks"], self.weights)
        if self.teacher is not None:
            loss = loss + distillation_loss(outputs, self.teacher(inputs, points), inputs["masks"], self.weights)
        return loss, None

    @torch.no_grad()
    def prediction_step(self, model, inputs, prediction_loss_only, ignore_keys=None):
        inputs = self._prepare_inputs(inputs)
        network = self.accelerator.unwrap_model(model)
        measured = measure(network, inputs)
        # Picture by picture: a mean over a batch that was filled up would count some twice.
        pictures = ({name: value[n : n + 1] for name, value in inputs.items()} for n in range(len(inputs["index"])))
        losses = torch.stack([self.task_loss(network, picture)[0] for picture in pictures]).float()
        return None, torch.stack([measured["miou_point"], measured["miou_box"], losses], dim=-1), inputs["index"]


def small(masks: torch.Tensor, side: int) -> torch.Tensor:
    """Masks (batch, prompts, height, width) at the decoder's size: set where half of the pixels are."""
    return F.adaptive_avg_pool2d(masks.float(), side) >= 0.5


@torch.no_grad()
def hard_points(student, inputs: dict) -> torch.Tensor:
    """A point of each mask, moved to what was missed as often as each sample's `rounds` says: (batch, prompts, 2).

    Every point is a prompt by itself: it replaces the one before. Where nothing was missed it is drawn from the whole
    mask again.
    """
    masks, draws, rounds = inputs["masks"], inputs["draws"], inputs["rounds"]
    points = points_in(masks, draws[..., 0])
    if not rounds.max():
        return points
    # Each layer by itself: those that the Trainer has put to rest for a batch of one picture stay so.
    training = {layer: layer.training for layer in student.vision_encoder.modules()}
    student.vision_encoder.eval()  # batch norms shall see each picture once in a step
    embeddings = student.get_image_embeddings(inputs["pixel_values"])
    for layer, mode in training.items():
        layer.training = mode
    for number in range(int(rounds.max())):
        said = segment(student, points, image_embeddings=embeddings)
        predicted = best_masks(said.logits, said.scores)
        predicted = F.interpolate(predicted, masks.shape[-2:], mode="bilinear", align_corners=False) > 0
        moved = points_in(masks & ~predicted, draws[..., number + 1], otherwise=masks)
        points = torch.where((rounds > number)[:, None, None], moved, points)
    return points


def supervised_loss(outputs: Outputs, masks: torch.Tensor, weights: TeacherArguments) -> torch.Tensor:
    """Focal and dice loss of each prompt's best mask (the least loss of three, as SAM is trained), and the error of
    the predicted scores; the mean over all prompts."""
    targets = small(masks, outputs.logits.shape[-1])[:, :, None].expand_as(outputs.logits)
    each = weights.focal_weight * focal_loss(outputs.logits, targets)
    each = each + weights.dice_weight * dice_loss(outputs.logits, targets)
    scores = exact(outputs.scores)
    real = mask_iou(outputs.logits > 0, targets).to(scores.dtype)
    return (each.amin(-1) + weights.iou_weight * (scores - real).abs().mean(-1)).mean()


def distillation_loss(
    student: Outputs, teacher: Outputs, masks: torch.Tensor, weights: TeacherArguments
) -> torch.Tensor:
    """The three stages of TinySAM, equation 7, as means over the prompts rather than a sum."""
    loss = student.logits.new_zeros(())
    if weights.embedding_weight:
        embeddings = teacher.embeddings
        if embeddings.shape[-2:] != student.embeddings.shape[-2:]:
            sides = student.embeddings.shape[-2:]
            embeddings = F.interpolate(embeddings, sides, mode="bilinear", align_corners=False)
        loss = loss + weights.embedding_weight * F.l1_loss(exact(student.embeddings), exact(embeddings))
    if weights.token_weight:
        loss = loss + weights.token_weight * F.l1_loss(exact(student.tokens), exact(teacher.tokens))
    if weights.mask_weight:
        logits, side = teacher.logits, student.logits.shape[-1]
        if logits.shape[-1] != side:
            logits = F.interpolate(logits.flatten(1, 2), (side, side), mode="bilinear", align_corners=False)
            logits = logits.view_as(student.logits)
        targets = small(masks, side)[:, :, None].expand_as(logits)
        hardness = mask_hardness(student.logits, logits, targets) if weights.hard_mask_weighting else 0.5
        loss = loss + weights.mask_weight * (hardness * mask_distances(student.logits, logits)).mean()
    return loss


@torch.no_grad()
def measure(model, inputs: dict) -> dict[str, torch.Tensor]:
    """Mean IoU of each picture's prompts, (batch,): by a point drawn in the mask, and by its box. Of three masks that
    with the best predicted score counts, at the size of the picture."""
    masks = inputs["masks"]
    prompts = {"miou_point": {"points": points_in(masks, inputs["draws"][..., 0])}}
    prompts["miou_box"] = {"boxes": boxes_around(masks)}
    embeddings = model.get_image_embeddings(inputs["pixel_values"])
    results = {}
    for name, prompt in prompts.items():
        said = segment(model, **prompt, image_embeddings=embeddings)
        predicted = best_masks(said.logits, said.scores)
        predicted = F.interpolate(predicted, masks.shape[-2:], mode="bilinear", align_corners=False) > 0
        results[name] = mask_iou(predicted, masks).mean(-1).float()
    return results
