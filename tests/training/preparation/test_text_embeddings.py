"""Embeddings are what the encoder says of each text, found by its id, and pictures are aligned with their own."""

import csv
import re
import shutil
from types import SimpleNamespace

import datasets
import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file
from tokenizers import Tokenizer, models, pre_tokenizers
from torch.nn import functional as F
from transformers import (
    BertConfig,
    BertModel,
    CLIPConfig,
    CLIPModel,
    CLIPTextConfig,
    CLIPTextModelWithProjection,
    PreTrainedTokenizerFast,
    T5Config,
    T5Model,
)

from hf_effmodels.training import main, prepare
from hf_effmodels.training.data.text_embeddings import TextEmbeddings
from hf_effmodels.training.losses.interface import Batch, FeatureSpec, Networks
from hf_effmodels.training.losses.text_alignment import TextAlignmentLoss, text_alignment_loss
from hf_effmodels.training.preparation.text_embeddings import main as embed
from hf_effmodels.training.preparation.text_embeddings import table
from hf_effmodels.training.preparation.text_embeddings.encoder import TextEncoder, load_encoder

from ..tasks.contract import history

WORDS = {"<pad>": 0, "<unk>": 1, "</s>": 2, "a": 3, "round": 4, "digit": 5, "with": 6, "hole": 7}
TEXTS = ["a round digit", "a digit with a hole", "round", "a digit with a round hole and more than there is room for"]


def tokenizer() -> PreTrainedTokenizerFast:
    words = Tokenizer(models.WordLevel(WORDS, unk_token="<unk>"))
    words.pre_tokenizer = pre_tokenizers.Whitespace()
    return PreTrainedTokenizerFast(
        tokenizer_object=words, unk_token="<unk>", pad_token="<pad>", eos_token="</s>", model_max_length=8
    )


@pytest.fixture(scope="module")
def encoders(tmp_path_factory):
    torch.manual_seed(0)
    tower = {"hidden_size": 8, "intermediate_size": 16, "num_attention_heads": 2, "num_hidden_layers": 1}
    text = {**tower, "vocab_size": 9, "max_position_embeddings": 8, "eos_token_id": 2}
    clip = CLIPConfig(text_config=text, vision_config={**tower, "image_size": 8, "patch_size": 4}, projection_dim=6)
    networks = {
        "clip": CLIPModel(clip),
        "tower": CLIPTextModelWithProjection(CLIPTextConfig(**text, projection_dim=6)),
        "bert": BertModel(BertConfig(**tower, vocab_size=9, max_position_embeddings=8)),
        "t5": T5Model(T5Config(vocab_size=9, d_model=8, d_kv=4, d_ff=16, num_layers=1, num_heads=2)),
    }
    folders = {}
    for name, network in networks.items():
        folders[name] = tmp_path_factory.mktemp(name)
        network.save_pretrained(folders[name])
        tokenizer().save_pretrained(folders[name])
    return folders


@torch.no_grad()
def test_any_encoder_gives_a_vector_for_each_text_whatever_stands_beside_it(encoders):
    ids = [[WORDS.get(word, 1) for word in text.split()][:8] for text in TEXTS]
    for name, pooling, width in (
        ("clip", "projected", 6),
        ("tower", "projected", 6),
        ("bert", "mean", 8),
        ("t5", "mean", 8),
    ):
        encoder = load_encoder(str(encoders[name]))
        assert encoder.pooling == pooling and encoder.max_length == 8
        found = encoder(TEXTS)
        alone = torch.cat([encoder([text]) for text in TEXTS])
        assert found.shape == (4, width)
        torch.testing.assert_close(found, alone, rtol=1e-4, atol=1e-5)
        assert len({tuple(row.tolist()) for row in found}) == 4
    network = BertModel.from_pretrained(encoders["bert"]).eval()
    states = [network(torch.tensor([row])).last_hidden_state[0] for row in ids]
    for pooling, expected in (
        ("mean", [state.mean(0) for state in states]),
        ("cls", [state[0] for state in states]),
        ("last", [state[-1] for state in states]),
    ):
        encoder = load_encoder(str(encoders["bert"]), pooling=pooling)
        torch.testing.assert_close(encoder(TEXTS), torch.stack(expected), rtol=1e-4, atol=1e-5)
        encoder.tokenizer.model_input_names = ["input_ids"]  # one that gives no mask: every token counts
        torch.testing.assert_close(encoder(TEXTS[1:2]), expected[1][None], rtol=1e-4, atol=1e-5)
    short = load_encoder(str(encoders["bert"]), max_length=3)
    torch.testing.assert_close(short(TEXTS[1:2])[0], network(torch.tensor([ids[1][:3]])).last_hidden_state[0].mean(0))
    network = CLIPModel.from_pretrained(encoders["clip"]).eval()
    expected = torch.cat([network.get_text_features(torch.tensor([row])).pooler_output for row in ids])
    torch.testing.assert_close(load_encoder(str(encoders["clip"]))(TEXTS), expected, rtol=1e-4, atol=1e-5)
    with pytest.raises(ValueError, match="--pooling: BertModel has no projection"):
        load_encoder(str(encoders["bert"]), pooling="projected")
    # The text part of a network with images is asked by itself for anything but the projection.
    states = network.text_model(torch.tensor([ids[1]])).last_hidden_state[0]
    torch.testing.assert_close(load_encoder(str(encoders["clip"]), pooling="cls")(TEXTS[1:2]), states[:1])
    without = tokenizer()
    without.pad_token = None  # the end fills up, to the right, whatever the tokenizer was told
    without.padding_side = "left"
    found = TextEncoder(BertModel.from_pretrained(encoders["bert"]), without, "last")(TEXTS)
    expected = load_encoder(str(encoders["bert"]), pooling="last")(TEXTS)
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-5)
    without.pad_token = without.eos_token = None
    with pytest.raises(ValueError, match="neither a token to pad with nor one for the end"):
        TextEncoder(network, without)


def captions(folder, count=60, name="captions.csv"):
    with open(folder / name, "w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["row", "caption"])
        writer.writerows([number, f"{TEXTS[number % 4]} {'a ' * (number // 20)}"] for number in reversed(range(count)))
    return folder / name


@pytest.fixture
def make(encoders, tmp_path):
    """Arguments that make embeddings of 1500 texts, in three files."""
    arguments = ["--dataset", str(captions(tmp_path, 1500)), "--id_column", "row", "--encoder", str(encoders["tower"])]
    arguments += ["--cache_dir", str(tmp_path / "cache"), "--batch_size", "100", "--shard_size", "600"]
    return [*arguments, "--precision", "float32", "--output", str(tmp_path / "texts")]


def test_pictures_are_aligned_with_the_embeddings_of_their_ids(make, encoders, digits_run, tmp_path, monkeypatch):
    write, written = table.TableWriter.write, []

    def killed(self, name, columns):
        if len(written) == 2:
            raise KeyboardInterrupt
        written.append(name)
        write(self, name, columns)

    monkeypatch.setattr(table.TableWriter, "write", killed)
    with pytest.raises(KeyboardInterrupt):
        embed(make)
    losses = (
        "{text_alignment: {temperature: 0.1, weight: 0.3, text_mixup: mix, mask_copies: true, projection: linear}}"
    )
    run = [*digits_run, "--task", "distillation", "--losses", losses, "--text_embeddings", str(tmp_path / "texts")]
    with pytest.raises(ValueError, match="holds no finished table of hf-effmodels prepare text-embeddings"):
        main([*run, "--output_dir", str(tmp_path / "early")])
    monkeypatch.setattr(table.TableWriter, "write", lambda *_: pytest.fail("it was gone on with"))
    other = (tmp_path / "captions.csv").read_text().replace(TEXTS[0], TEXTS[1], 1)
    (tmp_path / "other.csv").write_text(other)
    for changed, message in (
        (["--normalize", "false"], "normalize (True, now False)"),
        (["--pooling", "mean"], "pooling (projected, now mean)"),
        (["--max_length", "4"], "max_length (8, now 4)"),
        (["--precision", "float16"], "precision (float32, now float16)"),
        (["--shard_size", "500"], "shard_size (600, now 500)"),
        (["--dataset", str(captions(tmp_path, 1499, "fewer.csv"))], "texts (1500, now 1499), content"),
        (["--dataset", str(tmp_path / "other.csv")], "content"),
    ):
        with pytest.raises(ValueError, match="holds a table begun with another " + re.escape(message)):
            embed([*make, *changed])
    written.clear()
    monkeypatch.setattr(table.TableWriter, "write", lambda *args: (written.append(args[1]), write(*args)))
    embed(make)
    assert written == ["train-00002-of-00003.parquet"]

    embeddings = TextEmbeddings(tmp_path / "texts")
    expected = F.normalize(load_encoder(str(encoders["tower"]))([TEXTS[1397 % 4] + " " + "a " * 69]), dim=-1)
    torch.testing.assert_close(embeddings.of(["3", "1397"], "x")(1), expected[0])
    mixed = [*run, "--mixup", "0.5", "--label_smoothing_factor", "0.1"]
    trainer = prepare("prepare_training", [*mixed, "--output_dir", str(tmp_path / "unused")]).trainer
    dataset = trainer.train_dataset
    samples = [dataset[number] for number in (5, 9, 40 + 5)]
    own = embeddings.of([str(row) for row in dataset.source.rows], "x")
    torch.testing.assert_close(samples[1]["text_embeds"], own(9))
    batch = trainer.data_collator(samples)
    share = batch["own_share"][0]
    assert batch["text_embeds"].shape == (3, 6) and 0 < share < 1
    with torch.no_grad():
        trainer.network.eval()
        loss = trainer.losses["text_alignment"]
        pooled = torch.randn(3, loss.projection[0].in_features)
        found = loss({"pooled": pooled}, {}, Batch(index=batch["index"], own_share=batch["own_share"], extra=batch))
        texts = torch.stack([own(5), own(9), own(5)])
        texts = F.normalize(share * texts + (1 - share) * texts.flip(0), dim=-1)
        ids = torch.tensor([5, 9, 5])
        by_hand = text_alignment_loss(pooled @ loss.projection[0].weight.T, texts, temperature=0.1, ids=ids)
    torch.testing.assert_close(found, by_hand)

    main([*mixed, "--output_dir", str(tmp_path / "out"), "--repeated_augmentation", "2"])
    found = history(tmp_path / "out", "loss", "text_alignment", "task_loss")
    np.testing.assert_allclose(found[:, 0], found[:, 2] + 0.3 * found[:, 1], rtol=1e-3)
    assert len(found) == 10 and np.ptp(found[:, 1]) > 1e-3
    other = ["--output_dir", str(tmp_path / "refused")]
    for changed, message in (
        (["--text_embeddings", ""], "--text_embeddings is missing, which the loss text_alignment aligns"),
        (["--losses", "{manifold: {}}"], "--text_embeddings: none of the --losses reads them"),
        (["--id_column", "name"], "--id_column: there is no 'name' in digits/train"),
        (["--losses", "{text_alignment: {embed_dim: 7}}"], "embed_dim: got 7 for text_embeds of shape"),
        (["--losses", "{text_alignment: {kind: siglip}}"], "kind: got 'siglip', accepted are clip, ctr, byol"),
    ):
        with pytest.raises(ValueError, match=message):
            main([*run, *changed, *other])
    embed(
        [*make[:1], str(captions(tmp_path, 9, "few.csv")), *make[2:-1], str(tmp_path / "few"), "--normalize", "false"]
    )
    raw = load_encoder(str(encoders["tower"]))([TEXTS[3]])[0]
    torch.testing.assert_close(TextEmbeddings(tmp_path / "few").of(["3"], "x")(0), raw)
    with pytest.raises(
        ValueError, match="has none for '37' of digits/train, nor for 38 others; its ids are such as '8'"
    ):
        main([*run, "--text_embeddings", str(tmp_path / "few"), *other])
    assert not (tmp_path / "refused" / "training_config.yaml").exists()


@pytest.mark.parametrize("kind", ["ctr", "byol"])
def test_what_is_not_over_all_processes_is_the_batchs_own(kind):
    loss = TextAlignmentLoss(kind=kind, temperature=0.3, norm=False, init_std=0.5)
    loss.build(Networks({"pooled": FeatureSpec((5,), "vector")}, {}, 3, None, {"text_embeds": (4,)}))
    texts, pooled = F.normalize(torch.randn(6, 4), dim=-1), torch.randn(6, 5)
    own_share = torch.full((6,), 0.2)  # of no effect: the first picture's text is taken
    found = loss({"pooled": pooled}, {}, Batch(own_share=own_share, extra={"text_embeds": texts}))
    images = F.normalize(loss.projection(pooled), dim=-1)
    expected = {
        "byol": (images - texts).square().sum(1).mean(),
        "ctr": F.cross_entropy(images @ texts.T / 0.3, torch.arange(6)),
    }
    torch.testing.assert_close(found, expected[kind])
    assert loss.projection[0].weight.std() > 0.3


def test_networks_that_make_no_vectors_of_texts_are_named(encoders, monkeypatch):
    for said, message in (
        (lambda *_: torch.zeros(1, 2, 3), r"--encoder: .*bert\d+ \(BertModel\) gives no vector for a text\.$"),
        (lambda *_: None, r"--encoder: .*bert\d+ \(BertModel\) gives no vector for a text\.$"),
        (lambda *_: 1 / 0, r"--encoder: .*bert\d+ \(BertModel\) encodes no texts \(division by zero\)\.$"),
    ):
        monkeypatch.setattr(TextEncoder, "__call__", said)
        with pytest.raises(ValueError, match=message):
            load_encoder(str(encoders["bert"]))


def test_wrong_texts_are_named(make, tmp_path, digits_run, convnext_folder):
    rows = ["id,text\n1,one\n1,two\n", "id,text\n1,one\n,two\n", "id,text\n1,one\n2,\n", "id,text\n"]
    messages = ["rows 0 and 1 of .* have the same id, '1'", "row 1 of .* column 'id' holds None"]
    messages += ["row 1 of .*: column 'text' holds None, accepted is a text", "corresponds to no data"]
    for number, (content, message) in enumerate(zip(rows, messages, strict=True)):
        (tmp_path / f"{number}.csv").write_text(content)
        with pytest.raises((ValueError, OSError), match=message):
            embed([*make, "--dataset", str(tmp_path / f"{number}.csv"), "--id_column", "id"])
    shutil.copytree(make[make.index("--encoder") + 1], tmp_path / "broken")
    file = tmp_path / "broken" / "model.safetensors"
    save_file({name: value / 0 for name, value in load_file(file).items()}, file, metadata={"format": "pt"})
    for changed, message in (
        (["--encoder", str(tmp_path / "broken")], "--encoder: .* has .* broken weights"),
        (["--dataset", str(tmp_path / "none.csv")], "--dataset: there is no file"),
        (["--id_column", "file"], "--id_column: there is no 'file', the columns are row, caption"),
        (["--pooling", "best"], "--pooling: got 'best', accepted are "),
        (["--split", "test"], "--split: there is no 'test'"),
        (["--encoder", str(convnext_folder)], "--encoder: "),
        (["--encoder", str(tmp_path / "nowhere")], "--encoder: "),
    ):
        with pytest.raises((ValueError, OSError), match=message):
            embed([*make, *changed])
    assert not (tmp_path / "texts").exists()


def test_one_picture_alone_is_projected_by_the_statistics_of_those_before():
    loss = TextAlignmentLoss(kind="byol")
    loss.build(Networks({"pooled": FeatureSpec((5,), "vector")}, {}, 3, None, {"text_embeds": (4,)}))
    texts, pooled = F.normalize(torch.randn(6, 4), dim=-1), torch.randn(6, 5)
    loss({"pooled": pooled}, {}, Batch(extra={"text_embeds": texts}))
    before = {name: tensor.clone() for name, tensor in loss.state_dict().items()}
    found = loss({"pooled": pooled[:1]}, {}, Batch(extra={"text_embeds": texts[:1]}))
    assert loss.projection.training and all(torch.equal(before[n], t) for n, t in loss.state_dict().items())
    expected = loss.eval()({"pooled": pooled[:1]}, {}, Batch(extra={"text_embeds": texts[:1]}))
    torch.testing.assert_close(found, expected)


def test_a_data_set_without_rows_is_named(monkeypatch):
    monkeypatch.setattr(table, "load_splits", lambda args, token, **options: None)
    rows = datasets.Dataset.from_dict({"id": [], "text": []})
    monkeypatch.setattr(table, "pick_split", lambda splits, option, name: rows)
    args = SimpleNamespace(dataset="me/none", token=None, split="train", id_column="id", text_column="text")
    with pytest.raises(ValueError, match="^--dataset: me/none/train is empty.$"):
        table._read_texts(args)


@pytest.mark.parametrize("there", [True, False])
def test_texts_are_embedded_on_the_accelerator_that_there_is(there, monkeypatch):
    told = []
    monkeypatch.setattr(torch.accelerator, "is_available", lambda: there)
    monkeypatch.setattr(torch.accelerator, "current_accelerator", lambda: "chip")

    def write(*given):
        told.append("table")
        raise KeyError

    monkeypatch.setattr(table, "TableWriter", write)
    encoder = SimpleNamespace(model=SimpleNamespace(to=told.append))
    with pytest.raises(KeyError):
        table._write(SimpleNamespace(output="out", shard_size=1), ["1"], ["a text"], encoder, {})
    assert told == ["chip"] * there + ["table"]


def test_an_encoder_is_read_and_asked_as_the_arguments_say(encoders, tmp_path, monkeypatch):
    """Its revision, precision, pooling, length and token; and the table says which one made it."""
    asked, load = [], load_encoder

    def watched(name, *, revision, token, trust_remote_code, **how):
        asked.append((name, revision, token, trust_remote_code, how))
        return load(name, **how)

    monkeypatch.setattr(table, "load_encoder", watched)
    texts = ["--dataset", str(captions(tmp_path, 5)), "--id_column", "row", "--encoder", str(encoders["bert"])]
    how = ["--pooling", "last", "--max_length", "4", "--encoder_dtype", "bfloat16", "--precision", "float32"]
    where = ["--encoder_revision", "v2", "--token", "hf_a", "--trust_remote_code", "true"]
    monkeypatch.setattr(table, "check_place", lambda option, name, revision: asked.append((option, name, revision)))
    options = [*texts, *how, *where, "--normalize", "false", "--output", str(tmp_path / "t")]
    found = TextEmbeddings(embed([*options, "--cache_dir", str(tmp_path / "cache")]))
    name = str(encoders["bert"])
    assert asked == [
        ("--encoder", name, ("--encoder_revision", "v2")),
        (name, "v2", "hf_a", True, {"pooling": "last", "max_length": 4, "dtype": "bfloat16"}),
    ]
    assert found.settings["revision"] == "v2" and found.settings["pooling"] == "last"
    network = BertModel.from_pretrained(name, dtype=torch.bfloat16).eval()
    words = [WORDS.get(word, 1) for word in TEXTS[1].split()][:4]
    with torch.no_grad():
        expected = network(torch.tensor([words])).last_hidden_state[0, -1].float()
    torch.testing.assert_close(found.of(["1"], "x")(0), expected, atol=0.03, rtol=0.03)
