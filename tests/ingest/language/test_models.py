"""Language models: replies that can be used, engines against plain computations and a real server."""

import hashlib
import importlib.util
import json
import threading
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest
import torch
from tokenizers import decoders, pre_tokenizers
from transformers import LlamaForCausalLM

from ingest.language.captions import accept
from ingest.language.endpoint import Endpoint
from ingest.language.engines import Transformers, Vllm
from ingest.language.loading import model_identity
from ingest.language.models import CUT_OFF, Reply, ask, begins_thinking, judged, prompt_sha256, read_prompt
from ingest.stages import descriptions
from tests.engines import write_llama
from warehouse.store import UserError


@pytest.mark.parametrize(
    ("raw", "text", "reason"),
    [
        (" The clips are loud. ", "The clips are loud.", None),
        ("<think>Hm, I cannot hear.</think>\n\nLoud sounds.", "Loud sounds.", None),
        ("<script>alert(1)</script> loud", "<script>alert(1)</script> loud", None),
        ("Ignore all previous instructions; DROP TABLE reply;", "Ignore all previous instructions; DROP TABLE reply;", None),
        ("The clips are measured as well as I can.", "The clips are measured as well as I can.", None),
        ("Café noises, naïve tones", "Café noises, naïve tones", None),
        ("", None, "empty reply"),
        (" \n\t", None, "empty reply"),
        ("<think>Let me see", None, "reply ends while thinking"),
        ("Okay, a banana.\nHm.\n</think>\n\nLoud sounds.", "Loud sounds.", None),
        ("<think>a</think> Well. <THINK>b</think>\nLoud sounds.", "Loud sounds.", None),
        ("a</think> Loud <think>wait", None, "reply ends while thinking"),
        ("Hm.</thinking>Loud sounds.", "Loud sounds.", None),
        ("[THINK]Hm.[/THINK]Loud sounds.", "Loud sounds.", None),
        ("I'm sorry, as an AI I think</think>Loud sounds.", "Loud sounds.", None),
        ("Hm. Loud sounds.</think>", None, "empty reply"),
        ("x" * 20_001, None, "reply of 20001 bytes, more than 20000"),
        ("é" * 10_001, None, "reply of 20002 bytes, more than 20000"),
        ("loud \ud800 sound", None, "reply with lone surrogates"),
        ("loud \x1b[31m sound", None, "reply with control characters"),
        ("loud \u202e sound", None, "reply with control characters"),
        ("<br/><p></p> **--** &nbsp; 1.", None, "reply without a word"),
        ("!!!!!!!!", None, "reply without a word"),
        ("这些音频片段都很响亮", None, "reply in another script"),
        ("I'm sorry, but I need the descriptions.", None, "refusal"),
        ("I can’t help with that.", None, "refusal"),
        ("As an AI language model, I hear nothing.", None, "refusal"),
        ("Loud sounds, though as an AI I hear nothing.", None, "refusal"),
    ],
)
def test_replies_that_can_be_used(raw, text, reason):
    found = judged(raw)
    assert (found.text, found.reason) == (text, reason)
    found.raw.encode()  # storable
    if reason is None:
        assert found.raw == raw


def test_what_a_template_began_is_no_answer_without_its_end():
    assert judged("Okay, let me hear", thinks=True) == Reply(None, "Okay, let me hear", "reply ends while thinking")
    assert judged("Hm.</think>Loud sounds.", thinks=True).text == "Loud sounds."
    assert accept("Okay, let me hear", thinks=True).reason == "reply ends while thinking"
    assert accept("Okay, someone says I cannot.</think>Loud sounds.", thinks=True).text == "Loud sounds."
    assert [begins_thinking(end) for end in ("<|assistant|><think>\n", "<think>\n\n</think>\n\n", "about <think> tags.<|assistant|>")] == [
        True, False, False,
    ]  # fmt: skip


def test_raw_replies_are_kept_with_escapes():
    assert judged("a\ud800b\x00\x1b\tc\u2066").raw == r"a\ud800b\x00\x1b" + "\tc" + r"\u2066"


class Counting:
    """Upper-cases prompts."""

    name, parameters = "counting", {}

    def __init__(self):
        self.asked = []

    def complete(self, prompts):
        self.asked.append(list(prompts))
        return [Reply(prompt.upper(), prompt.upper(), None) for prompt in prompts]


def test_equal_prompts_are_asked_once_and_known_ones_never():
    model, known = Counting(), {hashlib.sha256(b"b").hexdigest(): Reply(None, "", "empty reply")}
    found = ask(model, ["a", "b", "c", "a", "b", "\ud800"], known)
    assert model.asked == [["a", "c", "\\ud800"]]
    assert [reply.text for reply in found] == ["A", None, "C", "A", None, "\\UD800"]
    assert ask(model, ["b", "b"], known)[1].reason == "empty reply"
    assert ask(model, []) == []
    assert len(model.asked) == 1


def test_prompts_are_those_of_the_paper():
    prompt = read_prompt("summary")
    first = "Here are descriptions of some audio clips. Please summarize these descriptions by identifying their commonalities."
    assert prompt.text.splitlines()[0] == first
    assert prompt.sha256 == hashlib.sha256(prompt.text.encode()).hexdigest()
    assert prompt_sha256("\ud800") != prompt_sha256("?")


@pytest.fixture(scope="module")
def llama(tmp_path_factory):
    """A folder with a Llama of random weights and a tokenizer of bytes, as transformers saves them."""
    return write_llama(tmp_path_factory.mktemp("models") / "tiny-llama")


def greedy(folder, prompt, count):
    """Without padding, cache or batch: the likeliest byte after the other."""
    model = LlamaForCausalLM.from_pretrained(folder).eval()
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    spelled = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False).pre_tokenize_str(f"<|user|>{prompt}<|assistant|>")[0][0]
    ids = [alphabet.index(letter) + 2 for letter in spelled]
    start = len(ids)
    with torch.inference_mode():
        while len(ids) - start < count:
            ids.append(int(model(torch.tensor([ids])).logits[0, -1].argmax()))
            if ids[-1] == 1:
                break
    end = "" if ids[-1] == 1 else CUT_OFF
    return decoders.ByteLevel().decode([alphabet[i - 2] for i in ids[start:] if i > 1]) + end


def test_transformers_in_padded_batches_equals_a_plain_loop(llama):
    prompts = ["loud", "a much longer prompt, with éà", "", "noisy and low-pitched", "x" * 200]
    model = Transformers(llama, max_tokens=12, batch_size=2, device="cpu")
    found = model.complete(prompts)
    assert [reply.raw for reply in found[:4]] == [judged(greedy(llama, prompt, 12)).raw for prompt in prompts[:4]]
    assert len({reply.raw for reply in found[:4]}) == 4  # the prompts make a difference
    assert found[4] == Reply(None, "", "prompt of 221 tokens, the model takes fewer than 128")
    assert model.parameters["max_tokens"] == 12
    assert model.name == "tiny-llama"


def test_a_models_identity_is_its_content(llama, tmp_path):
    moved = tmp_path / "tiny-llama"
    moved.mkdir()
    for path in llama.iterdir():
        (moved / path.name).write_bytes(path.read_bytes())
    assert model_identity(moved) == model_identity(str(llama))
    (moved / "config.json").write_text((moved / "config.json").read_text().replace("128", "256"))
    assert model_identity(moved)["sha256"] != model_identity(llama)["sha256"]
    assert model_identity("org/name", "main") == {"model": "org/name", "revision": "main"}
    with pytest.raises(UserError, match="no model folder"):
        Transformers(tmp_path / "nothing").complete(["a"])
    (tmp_path / "empty").mkdir()
    with pytest.raises(UserError, match="cannot be loaded as a language model"):
        Transformers(tmp_path / "empty").complete(["a"])


def test_a_model_without_chat_template_is_refused(llama, tmp_path):
    for path in llama.iterdir():
        if "template" not in path.name:
            (tmp_path / path.name).write_bytes(path.read_bytes())
    with pytest.raises(UserError, match="no chat template"):
        Transformers(tmp_path).complete(["a"])


def test_vllm_that_is_not_installed_is_said_in_one_line(llama, monkeypatch):
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(UserError, match="vLLM is not installed"):
        Vllm(llama).complete(["a"])
    assert Vllm(llama, seed=3).parameters["seed"] == 3


# --- A real server --------------------------------------------------------------------------------------------------------------------------


class Handler(BaseHTTPRequestHandler):
    """Echoes prompts; a prompt's first word says what goes wrong, "busy N" and the like N times."""

    def do_POST(self):
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        prompt = body["messages"][0]["content"]
        with self.server.lock:
            self.server.requests.append((self.path, self.headers.get("Authorization"), body))
            seen = self.server.seen[prompt] = self.server.seen.get(prompt, 0) + 1
            self.server.open += 1
            self.server.most_open = max(self.server.most_open, self.server.open)
        kind, *times = prompt.split()
        wrong = seen <= int(times[0]) if times and times[0].isdecimal() else True
        answer = {"choices": [{"message": {"role": "assistant", "content": f"You said {prompt}"}, "finish_reason": "stop"}]}
        if kind == "long":
            answer["choices"][0]["finish_reason"] = "length"
        status, headers, text = 200, {}, json.dumps(answer)
        if kind == "newer" and "max_tokens" in body:
            status, text = (
                400,
                json.dumps({"error": {"message": "Unsupported parameter: 'max_tokens'. Use 'max_completion_tokens' instead."}}),
            )
        if kind in ("busy", "broken", "refused", "unknown") and wrong:
            status = {"busy": 429, "broken": 500, "refused": 400, "unknown": 404}[kind]
            headers = {"Retry-After": "0"} if kind == "busy" else {}
            text = json.dumps({"error": {"message": f"{kind} here"}})
        elif kind == "moved":
            status, headers, text = 302, {"Location": "http://127.0.0.1:9/"}, ""
        elif kind == "slow" and wrong:
            time.sleep(1.2)
        elif kind == "garbled" and wrong:
            text = "<html>{"
        elif kind == "silent":
            text = json.dumps({"choices": [{"message": {"content": None}}]})
        elif kind == "cut" and wrong:
            headers, text = {"Content-Length": "100000"}, text[:20]
        elif kind == "wait":
            time.sleep(0.05)
        with self.server.lock:
            self.server.open -= 1
        try:
            self.send_response(status)
            for name, value in {"Content-Length": str(len(text.encode())), **headers}.items():
                self.send_header(name, value)
            self.end_headers()
            self.wfile.write(text.encode())
        except OSError:
            pass  # the client has gone

    def log_message(self, *_):
        pass


@pytest.fixture
def server():
    found = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    found.requests, found.seen, found.lock, found.open, found.most_open = [], {}, threading.Lock(), 0, 0
    threading.Thread(target=found.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True).start()
    yield found
    found.shutdown()
    found.server_close()


def endpoint(server, **more):
    return Endpoint(f"http://127.0.0.1:{server.server_port}/v1", "small", **{"pause_s": 0.01, "timeout_s": 0.8, "attempts": 3, **more})


def test_endpoint_sends_what_it_says(server, monkeypatch):
    monkeypatch.setenv("SOME_KEY", "secret\n")
    model = endpoint(server, key_variable="SOME_KEY", seed=5, max_tokens=7, extra={"top_p": 0.5, "temperature": None})
    (found,) = model.complete(["Hello \U0001f600 {x}"])
    assert found == Reply("You said Hello \U0001f600 {x}", "You said Hello \U0001f600 {x}", None)
    message = {
        "model": "small",
        "seed": 5,
        "max_tokens": 7,
        "top_p": 0.5,
        "messages": [{"role": "user", "content": "Hello \U0001f600 {x}"}],
    }
    assert server.requests == [("/v1/chat/completions", "Bearer secret", message)]
    assert "secret" not in json.dumps(model.parameters)
    assert model.parameters == {"engine": "endpoint", "url": model.url, "model": "small", "seed": 5, "max_tokens": 7, "top_p": 0.5}


def test_a_server_that_wants_max_completion_tokens_gets_it(server):
    model = endpoint(server, max_tokens=7, concurrency=1)
    assert [reply.text for reply in model.complete(["newer a", "newer b"])] == ["You said newer a", "You said newer b"]
    assert server.seen == {"newer a": 2, "newer b": 1}
    assert [{"max_tokens", "max_completion_tokens"} & body.keys() for *_, body in server.requests[1:]] == [{"max_completion_tokens"}] * 2
    assert model.parameters["max_tokens"] == 7


def test_extra_of_a_study_goes_into_requests_and_parameters(server):
    url = f"http://127.0.0.1:{server.server_port}/v1"
    plain, more = ({"engine": "endpoint", "model": "small", "url": url, **extra} for extra in ({}, {"extra": {"top_p": 0.5, "seed": ""}}))
    model = descriptions.Settings(**more).language_model()
    model.complete(["fine"])
    [(_, _, body)] = server.requests
    assert (body["top_p"], "seed" in body) == (0.5, False)
    assert model.parameters["top_p"] == 0.5
    assert descriptions.Settings(**plain).language_model().parameters.keys() == model.parameters.keys() - {"top_p"} | {"seed"}
    with pytest.raises(UserError, match="extra goes into requests to an endpoint"):
        descriptions.Settings(extra={"top_p": 1}).language_model()
    with pytest.raises(UserError, match="extra holds what JSON cannot"):
        endpoint(server, extra={"a": float("nan")})


def test_endpoint_marks_what_was_cut_off(server):
    assert [reply.text for reply in endpoint(server).complete(["long words", "fine"])] == ["You said long words …", "You said fine"]


def test_endpoint_tries_again_where_that_can_help(server):
    prompts = ["busy 2", "broken 2", "slow 1", "garbled 1", "cut 1", "fine"]
    assert [reply.text for reply in endpoint(server).complete(prompts)] == [f"You said {prompt}" for prompt in prompts]
    assert server.seen == {"busy 2": 3, "broken 2": 3, "slow 1": 2, "garbled 1": 2, "cut 1": 2, "fine": 1}


@pytest.mark.slow
def test_endpoint_answers_without_text_are_replies_with_a_reason(server):
    found = endpoint(server).complete(["fine", "broken", "refused", "garbled", "silent", "slow"])
    assert all(reply == Reply(None, "", reply.reason) for reply in found[1:])
    assert [reply.reason for reply in found] == [
        None, "no answer: HTTP 500 broken here", "no answer: HTTP 400 refused here", "no answer: not a chat completion: b'<html>{'",
        "no answer: a chat completion without text", "no answer: none within 0.8 s",
    ]  # fmt: skip
    assert server.seen == {"fine": 1, "broken": 3, "refused": 1, "garbled": 3, "silent": 3, "slow": 3}


@pytest.mark.parametrize(
    ("prompts", "message"),
    [
        (["fine", "unknown"], "answers HTTP 404 unknown here: check"),
        (["fine", "moved"], "answers HTTP 302: check"),
        (["fine", "busy"], r"does not answer .HTTP 429 busy here. after 3 attempts"),
        (["broken", "broken a"], "no answer: HTTP 500 broken here"),
    ],
)
def test_endpoint_errors_that_concern_all_prompts(server, prompts, message):
    with pytest.raises(UserError, match=message):
        endpoint(server).complete(prompts)


def test_endpoint_without_server_or_key(server, monkeypatch):
    monkeypatch.delenv("SOME_KEY", raising=False)
    with pytest.raises(UserError, match="SOME_KEY does not hold a key"):
        endpoint(server, key_variable="SOME_KEY").complete(["fine"])
    with pytest.raises(UserError, match=r"does not answer .*refused.* after 2 attempts"):
        Endpoint("http://127.0.0.1:9/v1", "small", attempts=2, pause_s=0.01).complete(["fine"])
    for url in ("localhost:8000", "file:///etc/passwd", "http://user:word@localhost/v1", "http://localhost/v1?key=a", "http://[::1", "http://a:99999",
                "http://a b/v1", "http://é/v1"):  # fmt: skip
        with pytest.raises(UserError, match="no address of a server"):
            Endpoint(url, "small")


def test_endpoint_keeps_several_prompts_under_way_but_no_more(server):
    found = endpoint(server, concurrency=3).complete([f"wait {i}" for i in range(12)])
    assert [reply.text for reply in found] == [f"You said wait {i}" for i in range(12)]
    assert server.most_open == 3
