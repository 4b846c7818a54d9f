"""Pictures with damaged notes of how they are held, parts that do not fit, and devices without double precision."""

from types import SimpleNamespace

import pytest
import torch
from PIL import Image, ImageOps

from hf_effmodels.pipelines.delvm import image_tokenizer_delvm
from hf_effmodels.pipelines.delvm.create import create_pipeline
from hf_effmodels.pipelines.delvm.factorized_embedding import FactorizedEmbedding, factorize_embedding
from hf_effmodels.pipelines.hierarchical_mask_generation import embedding
from hf_effmodels.pipelines.sam_diffsr import image_inputs

from .delvm.tiny import tiny_language_model


@pytest.mark.parametrize("module", [image_tokenizer_delvm, image_inputs], ids=["delvm", "sam_diffsr"])
def test_a_picture_is_turned_as_it_was_held_and_stays_where_that_cannot_be_read(module, monkeypatch):
    picture = Image.new("RGB", (4, 2))
    picture.getexif()[0x0112] = 6  # to be turned by a quarter
    assert module._upright(picture).size == (2, 4)

    def damaged(image):
        raise SyntaxError("not a TIFF file")

    monkeypatch.setattr(ImageOps, "exif_transpose", damaged)
    assert module._upright(picture) is picture


def test_parts_of_a_language_model_of_images_that_do_not_fit_are_named():
    with pytest.raises(ValueError, match="^preset: got 'delvm-9x', accepted are 'delvm-"):
        create_pipeline("delvm-9x")
    for shape in ((4,), (2, 3, 4)):
        with pytest.raises(ValueError, match="^codebook: got shape .*, expected .codes, code width.[.]$"):
            FactorizedEmbedding(torch.zeros(shape), 8)
    model = tiny_language_model()
    codes = model.config.vocab_size
    with pytest.raises(ValueError, match=f"^codebook: it has {codes + 1} codes, the model a vocabulary of {codes}.$"):
        factorize_embedding(model, torch.zeros(codes + 1, 3))
    model.config.tie_word_embeddings = True
    with pytest.raises(ValueError, match="^tie_word_embeddings: got True, accepted is False"):
        factorize_embedding(model, torch.zeros(codes, 3))


def test_a_factorised_embedding_folds_to_a_plain_one():
    torch.manual_seed(0)
    part = FactorizedEmbedding(torch.randn(7, 3), 5, std=2.0)
    assert (part.num_embeddings, part.embedding_dim) == (7, 5) and 0.8 < part.projection.weight.std() < 4
    ids = torch.tensor([[0, 6], [3, 3]])
    by_hand = part.codebook[ids] @ part.projection.weight.T
    torch.testing.assert_close(part(ids), by_hand)
    torch.testing.assert_close(part.fold()(ids), by_hand)
    assert "codebook" in part.state_dict() and not part.codebook.requires_grad


@pytest.mark.parametrize("kind, dtype", [("cpu", torch.float64), ("mps", torch.float32)])
def test_points_are_asked_each_by_itself_in_the_precision_that_there_is(kind, dtype, monkeypatch):
    asked = []
    device = SimpleNamespace(type=kind)
    real_ones = torch.ones
    monkeypatch.setattr(torch, "ones", lambda *size, device, **how: real_ones(*size, **how))
    monkeypatch.setattr(torch.Tensor, "to", lambda self, *_: self)
    seen = SimpleNamespace(model=SimpleNamespace(device=device), decode=lambda **given: asked.append(given) or "masks")
    kind_of = next(each for each in vars(embedding).values() if hasattr(each, "ask_points"))
    points = torch.arange(6, dtype=torch.float64).reshape(3, 2)
    assert kind_of.ask_points(seen, points) == "masks"
    given = asked[0]
    assert given["input_points"].dtype == dtype and given["input_points"].tolist() == [[[p] for p in points.tolist()]]
    assert given["input_labels"].tolist() == [[[1]] * 3]


def test_a_factorised_embedding_has_a_codebook_of_its_own_that_is_saved_and_does_not_learn():
    """The tokenizer's may go on: what the model was trained with stays."""
    codes = torch.randn(7, 3, requires_grad=True)
    part = FactorizedEmbedding(codes, 5)
    before = codes.detach().clone()
    with torch.no_grad():
        codes.zero_()
    assert torch.equal(part.codebook, before) and not part.codebook.requires_grad
    assert part.state_dict().keys() == {"codebook", "projection.weight"}
    assert [name for name, _ in part.named_parameters()] == ["projection.weight"]
    half = FactorizedEmbedding(codes.half(), 5)
    assert half.projection.weight.dtype == torch.float16
