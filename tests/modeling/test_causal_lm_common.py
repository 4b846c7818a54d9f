"""What every registered causal language model promises, at a size that runs in milliseconds."""

import copy
import json
import re
import subprocess
import sys
from functools import partial

import pytest
import torch
from tokenizers import Tokenizer, models, pre_tokenizers
from torch.nn import functional as F
from transformers import (
    AutoConfig,
    AutoModelForCausalLM,
    DynamicCache,
    GenerationConfig,
    LlamaConfig,
    PreTrainedTokenizerFast,
    Trainer,
    TrainingArguments,
    pipeline,
)
from transformers.models.auto import modeling_auto
from transformers.models.llama.modeling_llama import LlamaRMSNorm

from hf_effmodels.hub import export
from hf_effmodels.modeling.decoders import documents
from hf_effmodels.modeling.decoders.cache_names import given_cache
from hf_effmodels.modeling.decoders.documents import cache_of_rows
from hf_effmodels.modeling.decoders.modeling_decoder import RMSNorm, RotaryEmbedding
from hf_effmodels.registry import ARCHITECTURES

from ..hub.client import run_snippets
from ..threads import run_together
from .tiny import tiny_config

DECODERS = [a for a in ARCHITECTURES.values() if "AutoModelForCausalLM" in a.auto_classes]
CAUSAL_LM = "AutoModelForCausalLM"


#: Of what is dear the default tests say it of one decoder.
ONE_DECODER = pytest.mark.parametrize(
    "architecture",
    [pytest.param(a, marks=() if a.model_type == "pangu_pi" else pytest.mark.thorough) for a in DECODERS],
    ids=[a.model_type for a in DECODERS],
    indirect=True,
)


@pytest.fixture(params=DECODERS, ids=lambda a: a.model_type)
def architecture(request):
    return request.param


def build(architecture, auto_class=CAUSAL_LM, attention="sdpa", **overrides):
    """A tiny network in which every parameter matters: those that start as 0 or 1 are moved."""
    torch.manual_seed(1)
    config = tiny_config(architecture, **overrides, attn_implementation=attention)
    model = architecture.model_class(auto_class)(config).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.1 * torch.randn_like(parameter))
    if model.can_generate():
        model.generation_config.eos_token_id = None  # generate as much as is asked for
    return model


def tokens(model, batch=2, length=9, seed=7):
    generator = torch.Generator().manual_seed(seed)
    return torch.randint(1, model.config.vocab_size, (batch, length), generator=generator)


def left_padded(model):
    """Two rows of different length, the attention mask, and the short row alone."""
    ids = tokens(model)
    mask = torch.ones_like(ids)
    mask[0, :4] = 0
    ids[0, :4] = model.config.pad_token_id
    return ids, mask, ids[:1, 4:]


def close(a, b, tolerance=1e-5):
    size = b.double().square().mean().sqrt().item()
    torch.testing.assert_close(a.double(), b.double(), rtol=0, atol=tolerance * size)


@torch.no_grad()
def test_saved_model_loads_with_the_same_outputs_behind_every_auto_class(architecture, tmp_path):
    for auto_class in architecture.auto_classes:
        model = build(architecture, auto_class, num_labels=3)
        model.save_pretrained(tmp_path / auto_class)
        assert type(AutoConfig.from_pretrained(tmp_path / auto_class)) is architecture.config_class
        loaded, report = getattr(modeling_auto, auto_class).from_pretrained(
            tmp_path / auto_class, output_loading_info=True
        )
        assert type(loaded) is type(model)
        assert not any(report.values()), report
        for name, buffer in model.named_buffers():
            assert torch.equal(loaded.get_buffer(name), buffer), f"buffer {name} changed on loading"
        close(loaded(tokens(model))[0], model(tokens(model))[0], 1e-6)
    half = AutoModelForCausalLM.from_pretrained(tmp_path / CAUSAL_LM, dtype=torch.bfloat16)
    model = build(architecture, num_labels=3)
    close(half(tokens(model)).logits, model(tokens(model)).logits, tolerance=0.3)


@torch.no_grad()
def test_tied_embeddings_stay_tied(architecture, tmp_path):
    model = build(architecture, tie_word_embeddings=True)
    assert model.lm_head.weight is model.model.embed_tokens.weight
    model.save_pretrained(tmp_path)
    loaded = AutoModelForCausalLM.from_pretrained(tmp_path)
    assert loaded.lm_head.weight is loaded.model.embed_tokens.weight
    close(loaded(tokens(model)).logits, model(tokens(model)).logits, 1e-6)


@torch.no_grad()
def test_hidden_states_attentions_and_tuples_are_transformers_own(architecture):
    model = build(architecture, attention="eager")
    ids = tokens(model)
    plain = model(ids)
    assert plain.hidden_states is None and plain.attentions is None
    outputs = model(ids, output_hidden_states=True, output_attentions=True)
    layers, heads = model.config.num_hidden_layers, model.config.num_attention_heads
    assert len(outputs.hidden_states) == layers + 1 and len(outputs.attentions) == layers
    assert all(h.shape == (2, 9, model.config.hidden_size) for h in outputs.hidden_states)
    assert all(a.shape == (2, heads, 9, 9) for a in outputs.attentions)
    torch.testing.assert_close(outputs.attentions[0].sum(-1), torch.ones(2, heads, 9))
    assert torch.equal(model.lm_head(outputs.hidden_states[-1]), outputs.logits)
    labelled = model(ids, labels=ids, return_dict=False)
    assert isinstance(labelled, tuple) and labelled[0].ndim == 0


@torch.no_grad()
def test_eager_and_sdpa_attention_agree(architecture):
    eager, sdpa = build(architecture, attention="eager"), build(architecture, attention="sdpa")
    ids, mask, _ = left_padded(eager)
    kept = mask.bool()
    close(sdpa(ids, attention_mask=mask).logits[kept], eager(ids, attention_mask=mask).logits[kept])
    sdpa.set_attn_implementation("eager")
    assert torch.equal(sdpa(ids).logits, eager(ids).logits)


@torch.no_grad()
def test_a_token_sees_only_what_came_before_in_its_own_row(architecture):
    model = build(architecture).double()
    ids = tokens(model)
    changed = ids.clone()
    changed[0, 5:] = (changed[0, 5:] % (model.config.vocab_size - 1)) + 1
    before, after = model(ids).logits, model(changed).logits
    close(after[0, :5], before[0, :5], 1e-12)
    close(after[1], before[1], 1e-12)
    assert not torch.allclose(after[0, 5:], before[0, 5:])


@torch.no_grad()
def test_the_cache_changes_nothing(architecture):
    model = build(architecture).double()
    ids = tokens(model)
    whole = model(ids, use_cache=False)
    assert whole.past_key_values is None
    for name in ("past_key_values", "cache"):  # what transformers calls it up to 5.23, and since
        cache, steps = DynamicCache(config=model.config), []
        for piece in ids.split([3, 1, 1, 4], dim=1):
            steps.append(model(piece, **{name: cache}).logits)
        close(torch.cat(steps, dim=1), whole.logits, 1e-12)
        assert cache.get_seq_length() == ids.shape[1]


def test_a_cache_is_given_once_by_either_name():
    one, other = DynamicCache(), DynamicCache()
    assert given_cache(one, None) is given_cache(None, one) is given_cache(one, one) is one
    assert given_cache(None, None) is None
    with pytest.raises(ValueError, match="two names of one argument"):
        given_cache(one, other)


@torch.no_grad()
def test_left_padding_changes_nothing(architecture):
    model = build(architecture)
    ids, mask, alone = left_padded(model)
    positions = (mask.cumsum(-1) - 1).clamp_min(0)
    padded = model(ids, attention_mask=mask, position_ids=positions).logits[:1, 4:]
    close(padded, model(alone).logits)
    together = model.generate(ids, attention_mask=mask, max_new_tokens=6, do_sample=False)
    assert torch.equal(together[:1, ids.shape[1] :], model.generate(alone, max_new_tokens=6, do_sample=False)[:, 5:])


@torch.no_grad()
def test_packed_documents_do_not_see_each_other(architecture):
    model = build(architecture).double()
    ids = tokens(model, batch=1, length=10)
    positions = torch.tensor([[0, 1, 2, 3, 0, 1, 2, 3, 4, 5]])
    apart = torch.cat([model(ids[:, :4]).logits, model(ids[:, 4:]).logits], dim=1)
    close(model(ids, position_ids=positions, use_cache=False).logits, apart, 1e-12)
    left_on = model(ids, position_ids=positions)
    close(left_on.logits, apart, 1e-12)
    assert left_on.past_key_values is None
    close(torch.compile(model, backend="eager")(ids, position_ids=positions).logits, apart, 1e-12)
    torch._dynamo.reset()
    with pytest.raises(ValueError, match="use_cache: got True with position_ids of several documents"):
        model(ids, position_ids=positions, use_cache=True)
    # A document of one token is one, and so are those of which one begins where another would go on from a gap.
    for apart in ([[0, 0, 1, 2]], [[0, 1, 2, 0]], [[0, 1, 3, 4]]):
        assert cache_of_rows(None, torch.tensor(apart), None, None) is False
    # One document in each row is none of these, wherever it begins.
    one = model(ids, position_ids=torch.arange(3, 13)[None], use_cache=True)
    close(one.logits, model(ids).logits, 1e-12)
    assert one.past_key_values.get_seq_length() == 10


@torch.no_grad()
def test_generation_by_every_method(architecture):
    model = build(architecture)
    ids = tokens(model, length=5)
    by_hand = ids
    for _ in range(6):
        by_hand = torch.cat([by_hand, model(by_hand).logits[:, -1:].argmax(-1)], dim=1)
    greedy = {"max_new_tokens": 6, "do_sample": False}
    assert torch.equal(model.generate(ids, **greedy), by_hand)
    assert torch.equal(model.generate(ids, **greedy, use_cache=False), by_hand)
    static = model.generate(ids, **greedy, cache_implementation="static", disable_compile=True)
    assert torch.equal(static, by_hand)

    scored = {"return_dict_in_generate": True, "output_scores": True}
    beams = model.generate(ids, **greedy, **scored, num_beams=4, num_return_sequences=4)
    likelihoods = log_likelihood(model, beams.sequences, prompt=5)
    torch.testing.assert_close(beams.sequences_scores, likelihoods / 6, rtol=1e-4, atol=1e-4)
    assert (likelihoods.reshape(2, 4).diff() <= 1e-4).all()

    torch.manual_seed(3)
    sampled = model.generate(ids, max_new_tokens=6, do_sample=True, top_k=0)
    torch.manual_seed(3)
    assert torch.equal(model.generate(ids, max_new_tokens=6, do_sample=True, top_k=0), sampled)

    assistant = copy.deepcopy(model)
    assisted = model.generate(ids[:1], **greedy, assistant_model=assistant)
    assert torch.equal(assisted, by_hand[:1])


@torch.no_grad()
def test_threads_do_not_see_each_others_texts(architecture):
    model = build(architecture)
    texts = [tokens(model, seed=seed) for seed in (1, 2, 3)]

    def answers(ids):
        cache = DynamicCache(config=model.config)
        first = model(ids, past_key_values=cache, output_hidden_states=True)
        second = model(ids[:, :2], past_key_values=cache)
        return torch.cat([first.logits, second.logits], dim=1), first.hidden_states[1]

    def written(ids):
        return model.generate(ids, max_new_tokens=4, do_sample=False)

    for ask in (answers, written):
        alone = [ask(ids) for ids in texts]
        for together, expected in zip(run_together(model, [partial(ask, ids) for ids in texts]), alone, strict=True):
            torch.testing.assert_close(together, expected)


def log_likelihood(model, ids, prompt):
    logits = model(ids).logits[:, prompt - 1 : -1].log_softmax(-1)
    return logits.gather(-1, ids[:, prompt:, None]).sum((1, 2))


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_the_loss_is_the_mean_cross_entropy_of_the_next_token(architecture, dtype):
    model = build(architecture).to(dtype)
    ids = tokens(model)
    labels = ids.clone()
    labels[0, :3] = -100
    logits = model(ids).logits
    expected = F.cross_entropy(logits[:, :-1].reshape(-1, logits.shape[-1]), labels[:, 1:].reshape(-1))
    torch.testing.assert_close(model(ids, labels=labels).loss, expected)
    summed = model(ids, labels=labels, num_items_in_batch=torch.tensor(100)).loss
    count = (labels[:, 1:] != -100).sum()
    torch.testing.assert_close(summed, expected * count / 100)
    assert summed.dtype == dtype
    shifted = F.pad(labels, (0, 1), value=-100)[:, 1:].contiguous()
    torch.testing.assert_close(model(ids, labels=labels, shift_labels=shifted).loss, expected)
    torch.testing.assert_close(model(ids, labels=ids, shift_labels=shifted).loss, expected)  # these are the ones
    torch.testing.assert_close(model(ids, logits_to_keep=2).logits, logits[:, -2:])


def test_loss_decreases_and_every_parameter_learns(architecture):
    torch.manual_seed(1)
    model = architecture.model_class(CAUSAL_LM)(tiny_config(architecture)).train()
    ids = tokens(model, batch=4)
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-2)
    losses, moved = [], set()
    start = {name: p.detach().clone() for name, p in model.named_parameters()}
    for _ in range(25):
        loss = model(ids, labels=ids).loss
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    moved = {name for name, p in model.named_parameters() if not torch.equal(p, start[name])}
    assert moved == start.keys()
    assert losses[-1] < 0.5 * losses[0]


def test_gradient_checkpointing_changes_nothing(architecture):
    plain = build(architecture).double().train()
    checkpointed = copy.deepcopy(plain)
    checkpointed.activation_checkpointing_enable()
    ids = tokens(plain)
    for model in (plain, checkpointed):
        model(ids, labels=ids, use_cache=False).loss.backward()
    for (name, a), b in zip(plain.named_parameters(), checkpointed.parameters(), strict=True):
        torch.testing.assert_close(b.grad, a.grad, rtol=1e-9, atol=1e-14, msg=f"gradient of {name}")


def test_bf16_autocast_trains_as_float32_does(architecture):
    model = build(architecture).train()
    ids = tokens(model)

    def outputs_and_gradient(ids, autocast):
        model.zero_grad()
        with torch.autocast("cpu", torch.bfloat16, enabled=autocast):
            outputs = model(ids, labels=ids)
        outputs.loss.backward()
        return outputs.logits.detach().float(), torch.cat([p.grad.flatten() for p in model.parameters()])

    exact, half, reverse = (
        outputs_and_gradient(ids, False),
        outputs_and_gradient(ids, True),
        outputs_and_gradient(ids.flip(1), False),
    )
    for number, name in enumerate(("logits", "gradient")):
        off = (half[number] - exact[number]).norm() / exact[number].norm()
        # Half the digits, and far nearer than what other tokens give.
        assert off < 0.05, name
        assert (reverse[number] - exact[number]).norm() / exact[number].norm() > 5 * off, name


def test_initialisation_follows_the_seed_on_meta_too(architecture, tmp_path):
    cls, config = architecture.model_class(CAUSAL_LM), tiny_config(architecture)
    models = []
    for seed in (11, 11, 12):
        torch.manual_seed(seed)
        models.append(cls(copy.deepcopy(config)))
    weights = [torch.cat([p.flatten() for p in model.parameters()]) for model in models]
    assert torch.equal(weights[0], weights[1])
    assert not torch.equal(weights[0], weights[2])
    with torch.device("meta"):
        skeleton = cls(config)
    assert all(p.is_meta for p in skeleton.parameters())
    # A checkpoint of the embedding alone: everything else is initialised, not left as it came from memory.
    embedding = {"model.embed_tokens.weight": models[0].model.embed_tokens.weight}
    torch.manual_seed(11)
    partial = cls.from_pretrained(None, config=config, state_dict=embedding)
    fresh = cls(config)
    for name, parameter in partial.named_parameters():
        torch.testing.assert_close(parameter.std(), fresh.get_parameter(name).std(), rtol=0.5, atol=1e-7)
        torch.testing.assert_close(parameter.mean(), fresh.get_parameter(name).mean(), rtol=0, atol=0.02)


@torch.no_grad()
def test_exported_program_takes_any_batch_and_length(architecture):
    model = build(architecture)
    model.config.use_cache = False
    dims = {0: torch.export.Dim("batch", min=1, max=64), 1: torch.export.Dim("length", min=2, max=64)}
    program = torch.export.export(model, (), {"input_ids": tokens(model)}, dynamic_shapes={"input_ids": dims})
    for batch, length in ((1, 5), (3, 17)):
        ids = tokens(model, batch, length)
        close(program.module()(input_ids=ids).logits, model(ids).logits)


def test_compiled_graph_is_whole_and_gives_the_same_gradients(architecture):
    plain = build(architecture).double().train()
    ids = tokens(plain)
    plain(ids, labels=ids, use_cache=False)  # transformers' recording hooks are installed outside of the graph
    compiled = copy.deepcopy(plain)
    plain(ids, labels=ids, use_cache=False).loss.backward()
    torch.compile(compiled, backend="aot_eager", fullgraph=True)(ids, labels=ids, use_cache=False).loss.backward()
    for (name, a), b in zip(plain.named_parameters(), compiled.parameters(), strict=True):
        torch.testing.assert_close(b.grad, a.grad, rtol=1e-9, atol=1e-14, msg=f"gradient of {name}")
    torch._dynamo.reset()


@pytest.mark.parametrize(
    "num_labels, problem_type, labels",
    [
        (3, None, torch.tensor([0, 2])),
        (3, "multi_label_classification", torch.tensor([[0.0, 1, 0], [1.0, 0, 0]])),
        (1, "regression", torch.tensor([0.5, -1.0])),
    ],
)
def test_sequence_classifier_reads_the_last_token_that_is_no_padding(architecture, num_labels, problem_type, labels):
    model = build(architecture, "AutoModelForSequenceClassification", num_labels=num_labels, problem_type=problem_type)
    ids = tokens(model)
    ids[0, 6:] = model.config.pad_token_id
    outputs = model(ids, attention_mask=(ids != model.config.pad_token_id).long(), labels=labels)
    assert outputs.logits.shape == (2, num_labels)
    close(outputs.logits[:1], model(ids[:1, :6]).logits)
    expected = {
        None: lambda: F.cross_entropy(outputs.logits, labels),
        "multi_label_classification": lambda: F.binary_cross_entropy_with_logits(outputs.logits, labels),
        "regression": lambda: F.mse_loss(outputs.logits.squeeze(), labels),
    }[problem_type]()
    torch.testing.assert_close(outputs.loss, expected)


def test_a_trainers_predictions_are_the_logits_alone(architecture, tmp_path):
    """Neither caches nor what routers say, whatever the configuration asks for: they would be gathered of all data."""
    also = {"output_router_logits": True} if architecture.model_type == "parameternet_moe" else {}
    model = build(architecture, **also)
    rows = [{"input_ids": row, "labels": row} for row in tokens(model)]
    arguments = TrainingArguments(str(tmp_path), report_to=[], use_cpu=True)
    found = Trainer(model, arguments).predict(rows).predictions
    with torch.no_grad():
        torch.testing.assert_close(torch.from_numpy(found), model(tokens(model)).logits)


def test_token_classifier_and_question_answerer(architecture):
    model = build(architecture, "AutoModelForTokenClassification", num_labels=3, classifier_dropout=0.4)
    assert model.dropout.p == 0.4
    ids = tokens(model)
    labels = ids % 3
    outputs = model(ids, labels=labels)
    assert outputs.logits.shape == (2, 9, 3)
    torch.testing.assert_close(outputs.loss, F.cross_entropy(outputs.logits.flatten(0, 1), labels.flatten()))
    model = build(architecture, "AutoModelForQuestionAnswering")
    start, end = torch.tensor([1, 2]), torch.tensor([4, 4])
    outputs = model(ids, start_positions=start, end_positions=end)
    assert outputs.start_logits.shape == outputs.end_logits.shape == (2, 9)
    expected = (F.cross_entropy(outputs.start_logits, start) + F.cross_entropy(outputs.end_logits, end)) / 2
    torch.testing.assert_close(outputs.loss, expected)


@torch.no_grad()
def test_the_vocabulary_can_be_resized(architecture):
    model = build(architecture)
    ids = tokens(model)
    before = model(ids).logits
    model.resize_token_embeddings(model.config.vocab_size + 5)
    assert model.config.vocab_size == 101
    close(model(ids).logits[..., :96], before)


def tokenizer_for(model) -> PreTrainedTokenizerFast:
    words = ["<pad>", "<s>", "</s>", "<unk>", "Once", "upon", "a", "time"]
    words += [f"w{i}" for i in range(len(words), model.config.vocab_size)]
    core = Tokenizer(models.WordLevel({word: i for i, word in enumerate(words)}, unk_token="<unk>"))
    core.pre_tokenizer = pre_tokenizers.Whitespace()
    special = {"pad_token": "<pad>", "bos_token": "<s>", "eos_token": "</s>", "unk_token": "<unk>"}
    return PreTrainedTokenizerFast(tokenizer_object=core, **special, padding_side="left")


@ONE_DECODER
def test_exported_folder_generates_in_a_pipeline_with_and_without_this_package(architecture, tmp_path, monkeypatch):
    model = build(architecture)
    model.generation_config = GenerationConfig(max_new_tokens=5, do_sample=False, pad_token_id=0)
    folder = export(model, tokenizer_for(model), tmp_path / "model", license="apache-2.0")
    text = pipeline("text-generation", model=str(folder))("Once upon a time")[0]["generated_text"]
    answer = model.generate(torch.tensor([[4, 5, 6, 7]]))[0, 4:].tolist()
    assert text == "Once upon a time" + " ".join(f"w{token}" for token in answer) and len(answer) == 5

    code = f"""
import importlib.abc, json, sys
class Blocked(importlib.abc.MetaPathFinder):
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] == "hf_effmodels":
            raise ModuleNotFoundError(name)
sys.meta_path.insert(0, Blocked())
import torch
from transformers import pipeline
from transformers.models.auto import modeling_auto
folder = {str(folder)!r}
pipe = pipeline("text-generation", model=folder, trust_remote_code=True)
heads = {{}}
for auto_class in {list(architecture.auto_classes)!r}:
    head = getattr(modeling_auto, auto_class).from_pretrained(folder, trust_remote_code=True)
    heads[auto_class] = list(head(torch.tensor([[4, 5, 6]]))[0].shape)
assert not [m for m in sys.modules if m.startswith("hf_effmodels")]
print(json.dumps([pipe("Once upon a time")[0]["generated_text"], heads]))
"""
    monkeypatch.setenv("HF_HOME", str(tmp_path / "home"))
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=tmp_path)
    assert done.returncode == 0, done.stderr[-3000:]
    text_without, heads = json.loads(done.stdout.splitlines()[-1])
    assert text_without == text
    assert heads["AutoModelForCausalLM"] == [1, 3, 96] and len(heads) == len(architecture.auto_classes)

    monkeypatch.chdir(folder)
    card = (folder / "README.md").read_text()
    assert "pipeline_tag: text-generation" in card and "A causal language model" in card
    assert run_snippets(card, package=True) == 1


@ONE_DECODER
def test_tensor_parallel_processes_give_the_same_loss_and_gradients(architecture, tmp_path):
    model = build(architecture)
    model.save_pretrained(tmp_path / "model")
    (tmp_path / "worker.py").write_text(f"""
import torch
import torch.distributed as dist
import hf_effmodels
from transformers import AutoModelForCausalLM

torch.set_num_threads(1)
dist.init_process_group("gloo")
ids = torch.arange(1, 19).reshape(2, 9)
losses, gradients = [], []
for plan in ({{}}, {{"tp_plan": "auto"}}):
    model = AutoModelForCausalLM.from_pretrained({str(tmp_path / "model")!r}, **plan).train()
    loss = model(ids, labels=ids).loss
    loss.backward()
    losses.append(loss)
    gradients.append({{n: p.grad.full_tensor() if hasattr(p.grad, "full_tensor") else p.grad
                      for n, p in model.named_parameters()}})
torch.testing.assert_close(*losses)
for name, gradient in gradients[0].items():
    torch.testing.assert_close(gradients[1][name], gradient, rtol=1e-3, atol=1e-5 * gradient.abs().max().item())
split = [n for n, p in model.named_parameters() if hasattr(p, "to_local") and p.to_local().numel() < p.numel()]
with open({str(tmp_path)!r} + f"/split{{dist.get_rank()}}", "w") as file:
    file.write(" ".join(split))
dist.destroy_process_group()
""")
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node", "2"]
    done = subprocess.run([*command, str(tmp_path / "worker.py")], capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr[-3000:]
    split = (tmp_path / "split0").read_text().split()
    planned = model.config.base_model_tp_plan.items()
    patterns = [key.replace(".", r"\.").replace("*", r"\d+") for key, style in planned if style != "local_params"]
    for pattern in patterns:
        assert [name for name in split if re.search(pattern, name)], f"nothing is split by {pattern}"


@pytest.mark.parametrize(
    "positions", [[0, 0, 1, 2], [0, 1, 2, 0], [0, 0, 0, 0], [0, 1, 3, 4], [2, 1, 0, 1], [5, 6, 7, 7]]
)
def test_a_document_ends_where_positions_do_not_go_on_by_one(positions):
    """Of one token, too; in any row of several."""
    for rows in ([positions], [positions, [0, 1, 2, 3]], [[0, 1, 2, 3], positions]):
        assert cache_of_rows(None, torch.tensor(rows), None, None) is False
        with pytest.raises(ValueError, match="use_cache: got True with position_ids of several documents"):
            cache_of_rows(True, torch.tensor(rows), None, None)
    for start in (0, 7):
        assert cache_of_rows(True, torch.arange(start, start + 4)[None], None, None) is True
    assert cache_of_rows(True, torch.tensor([[3]]), None, None) is True


def test_a_graph_keeps_no_cache_of_rows_whose_positions_are_not_known(monkeypatch):
    follow, packed = torch.arange(6)[None], torch.tensor([[0, 1, 2, 0, 1, 2]])
    for use_cache in (None, False):
        assert cache_of_rows(use_cache, packed, None, None) is False
        assert cache_of_rows(use_cache, follow, None, None) is use_cache
    # With a mask or a cache the decoder tells documents apart by no positions.
    assert cache_of_rows(True, packed, torch.ones(1, 6), None) is True
    assert cache_of_rows(True, packed, None, DynamicCache()) is True and cache_of_rows(None, None, None, None) is None
    with pytest.raises(ValueError, match="use_cache: got True with position_ids of several documents"):
        cache_of_rows(True, packed, None, None)
    monkeypatch.setattr(documents, "is_tracing", lambda tensor: True)
    assert cache_of_rows(None, packed, None, None) is cache_of_rows(None, follow, None, None) is False
    assert cache_of_rows(True, follow, None, None) is True


@torch.no_grad()
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_norms_round_in_half_precision_as_those_of_llama(dtype):
    ours, theirs = RMSNorm(64, eps=1e-3).to(dtype), LlamaRMSNorm(64, eps=1e-3).to(dtype)
    ours.weight.normal_(1, 0.3)
    theirs.load_state_dict(ours.state_dict())
    hidden = torch.randn(3, 50, 64, generator=torch.Generator().manual_seed(1)).to(dtype)
    assert torch.equal(ours(hidden), theirs(hidden))


@torch.no_grad()
@pytest.mark.parametrize("rope, slower", [({"rope_type": "default"}, 1), ({"rope_type": "linear", "factor": 4.0}, 4)])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_positions_turn_as_fast_as_they_are_scaled(rope, slower, dtype):
    rope = {**rope, "rope_theta": 100.0}
    config = LlamaConfig(hidden_size=16, num_attention_heads=2, rope_parameters=rope)
    positions = torch.tensor([[0, 1, 5, 9]])
    cos, sin = RotaryEmbedding(config)(torch.zeros(1, 4, 16, dtype=dtype), positions)
    angles = positions[0, :, None].double() / slower * 100.0 ** -(torch.arange(0, 8, 2).double() / 8)
    exact = {} if dtype == torch.float64 and slower == 1 else {"rtol": 0, "atol": 1e-5}
    expected = torch.cat([angles.cos()] * 2, -1), torch.cat([-angles.sin(), angles.sin()], -1)
    for found, wanted in zip((cos, sin), expected, strict=True):
        torch.testing.assert_close(found[0, :, 0].double(), wanted, **exact)
