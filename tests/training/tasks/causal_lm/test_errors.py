"""Wrong input is refused before anything is written or trained."""

import pytest
from tokenizers import Tokenizer, models
from transformers import PreTrainedTokenizerFast

from hf_effmodels.training import evaluate, main
from hf_effmodels.training.data.text.tokenization import train_tokenizer

from ...conftest import SIZES

WRONG = {
    "unknown model": (["--model", "pangu-pi-15"], "nearest: pangu-pi-15m"),
    "no model": (["--model", ""], "--model is missing"),
    "unknown field": (["--model_config", "{hidden_sice: 32}"], "hidden_sice.*hidden_size"),
    "unknown field of a type": (["--model", "llama", "--model_config", "{hidden_sice: 32}"], "nearest: hidden_size"),
    "impossible model": (["--model_config", "{hidden_size: 32, num_attention_heads: 32}"], "head_dim: got 1"),
    "no tokenizer": (["--tokenizer", ""], "--tokenizer is missing"),
    "tokenizer below the bytes": (["--tokenizer", "train:256"], "from 257"),
    "tokenizer above the text": (["--tokenizer", "train:90000"], "tokens at most, not 90000"),
    "tokenizer above the model": (
        ["--model_config", SIZES[:-1] + ", vocab_size: 299}"],
        "300 tokens, the model only 299",
    ),
    "block above positions": (
        ["--model_config", "{max_position_embeddings: 8}"],
        "16, but the model takes 8 tokens .max_pos",
    ),
    "block above the text": (["--tokenizer", "train:258", "--block_size", "2048"], "not enough for one block"),
    "no such column": (["--text_column", "texts"], "there is no 'texts', the columns are text"),
    "no such file": (["--dataset", "nowhere.txt"], "there is no file 'nowhere.txt'"),
    "no such split": (["--eval_split", "dev"], "there is no 'dev', the splits are train"),
    "fraction of a stream": (["--streaming", "true", "--eval_fraction", "0.1"], "no known length"),
    "stream without evaluation": (["--streaming", "true"], "--eval_documents: say how many"),
    "stream with a worker": (["--streaming", "true", "--dataloader_num_workers", "1"], "accepted is 0"),
    "stream by epochs": (["--streaming", "true", "--eval_strategy", "epoch"], "a stream has no epochs"),
    "stream saved by epochs": (["--streaming", "true", "--save_strategy", "epoch"], "^--save_strategy: got 'epoch'"),
    "endless stream": (["--streaming", "true", "--max_steps", "-1"], "--max_steps is missing"),
    "means of each process": (
        ["--average_tokens_across_devices", "false"],
        "--average_tokens_across_devices: the loss is the mean over all tokens; accepted is true",
    ),
    "a value that no model has": (
        ["--model", "llama", "--model_config", "{hidden_size: x}"],
        "^--model_config: ",
    ),
    "smoothing": (["--label_smoothing_factor", "0.1"], "accepted is 0"),
    "peak": (["--peak_tflops", "0"], "above 0"),
}


@pytest.mark.parametrize("case", WRONG)
def test_wrong_input_is_refused_with_the_argument_and_what_is_accepted(text_run, case, tmp_path):
    arguments, message = WRONG[case]
    with pytest.raises((ValueError, OSError), match=message):
        main([*text_run, "--max_train_documents", "20", "--output_dir", str(tmp_path / "run"), *arguments])
    assert not (tmp_path / "run" / "training_config.yaml").exists()


@pytest.mark.parametrize("streaming", ["true", "false"])
def test_an_empty_corpus_is_refused(text_run, streaming, tmp_path):
    (tmp_path / "empty.txt").write_text("\n\n\n\n\n\n\n\n")
    tokenizer = train_tokenizer(["some text"], 260, max_length=16)
    tokenizer.save_pretrained(tmp_path / "tokenizer")
    arguments = ["--dataset", str(tmp_path / "empty.txt"), "--tokenizer", str(tmp_path / "tokenizer")]
    arguments += ["--streaming", streaming, *(["--eval_documents", "2"] if streaming == "true" else [])]
    with pytest.raises(ValueError, match="empty"):
        main([*text_run, *arguments, "--output_dir", str(tmp_path / "run")])


def test_a_tokenizer_without_an_end_of_document_is_refused(text_run, tmp_path):
    backend = Tokenizer(models.WordLevel({"Line": 0, "things": 1, "<unk>": 2}, unk_token="<unk>"))
    PreTrainedTokenizerFast(tokenizer_object=backend, unk_token="<unk>").save_pretrained(tmp_path / "t")
    text_run += ["--tokenizer", str(tmp_path / "t"), "--output_dir", str(tmp_path / "run")]
    with pytest.raises(ValueError, match="no token that ends a document"):
        main(text_run)
    with pytest.raises(ValueError, match="'</s>' is no token of"):
        main([*text_run, "--eos_token", "</s>"])


def test_pretrained_weights_do_not_take_a_new_vocabulary(text_run, tmp_path):
    (tmp_path / "model").mkdir()
    (tmp_path / "model" / "config.json").write_text("{}")
    for work, more in ((main, ["--output_dir", str(tmp_path / "run")]), (evaluate, [])):
        known = ["--task", "causal-lm", "--dataset", text_run[text_run.index("--dataset") + 1]]
        with pytest.raises(ValueError, match="know only their own"):
            work([*known, *more, "--model", str(tmp_path / "model"), "--tokenizer", "train:300"])
