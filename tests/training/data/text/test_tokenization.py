"""The tokenizer that is trained on the training text."""

import pytest

from hf_effmodels.training.data.text import tokenization
from hf_effmodels.training.data.text.tokenization import END_OF_TEXT, has_tokenizer, load_tokenizer, train_tokenizer

TEXTS = ["low lower lowest", "new newer newest", "wide 123, wider 123!"]
LLAMA = {"pad_token": "<pad>", "bos_token": "<s>", "eos_token": "</s>"}


def test_one_special_token_ends_and_begins_documents_and_every_text_comes_back():
    tokenizer = train_tokenizer(TEXTS, 265, max_length=64)
    assert len(tokenizer) == 265 and tokenizer.model_max_length == 64
    assert tokenizer.bos_token == tokenizer.eos_token == END_OF_TEXT and tokenizer.eos_token_id == 0
    assert tokenizer.pad_token is None
    for text in (*TEXTS, "Ünïcode 漢字 \n\t 🙂"):
        assert tokenizer.decode(tokenizer(text)["input_ids"]) == text
    # The commonest pair of the texts above is merged first; digits and letters never share a token.
    merged = [token for token, number in tokenizer.get_vocab().items() if number > 256]
    assert "we" in merged and not any(any(c.isdigit() for c in t) and any(c.isalpha() for c in t) for t in merged)


def test_other_special_tokens_come_first_in_their_order_and_a_small_text_gives_what_it_can():
    tokenizer = train_tokenizer(TEXTS, 5000, special_tokens=LLAMA, at_most=True)
    assert [tokenizer.pad_token_id, tokenizer.bos_token_id, tokenizer.eos_token_id] == [0, 1, 2]
    assert 259 < len(tokenizer) < 5000 and tokenizer.model_max_length > 10**6
    with pytest.raises(ValueError, match="--tokenizer: the training text gives a vocabulary of .* at most, not 5000"):
        train_tokenizer(TEXTS, 5000)


def test_only_the_main_process_reads_the_texts_and_trains(monkeypatch):
    sent = train_tokenizer(TEXTS, 265).backend_tokenizer.to_str()

    class Other:
        is_main_process = False

    monkeypatch.setattr(tokenization, "PartialState", Other)
    monkeypatch.setattr(tokenization, "broadcast_object_list", lambda content: content.__setitem__(0, sent))
    tokenizer = train_tokenizer(lambda: pytest.fail("another process reads the texts"), 265)
    assert tokenizer.backend_tokenizer.to_str() == sent and tokenizer.eos_token == END_OF_TEXT
    failed = lambda content: content.__setitem__(0, OSError("row 3 cannot be read"))  # noqa: E731
    monkeypatch.setattr(tokenization, "broadcast_object_list", failed)
    with pytest.raises(OSError, match="row 3 cannot be read"):
        train_tokenizer(TEXTS, 265)


def test_a_tokenizer_needs_a_token_that_ends_a_document_or_is_told_one(tmp_path):
    tokenizer = train_tokenizer(TEXTS, 265)
    tokenizer.save_pretrained(tmp_path / "whole")
    assert has_tokenizer(tmp_path / "whole") and not has_tokenizer(tmp_path)
    assert load_tokenizer(str(tmp_path / "whole")).eos_token == END_OF_TEXT
    assert load_tokenizer(str(tmp_path / "whole"), "we").eos_token == "we"
    tokenizer.eos_token = None
    tokenizer.save_pretrained(tmp_path / "endless")
    with pytest.raises(ValueError, match="has no token that ends a document .* --eos_token"):
        load_tokenizer(str(tmp_path / "endless"))
    assert load_tokenizer(str(tmp_path / "endless"), "we").eos_token_id == tokenizer.get_vocab()["we"]
    with pytest.raises(ValueError, match="--eos_token: 'zz' is no token of"):
        load_tokenizer(str(tmp_path / "endless"), "zz")
    with pytest.raises(OSError, match="--tokenizer: there is no folder or file .*nowhere'"):
        load_tokenizer(str(tmp_path / "nowhere"))
