"""Audio classifiers and encoders of the transformers library as networks to dissect; their layers are found by structure, not by name."""

from __future__ import annotations

import contextlib
import inspect
import math
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch import nn

from ingest.networks.checkpoints import quiet, tensor_sha256
from ingest.networks.masking import Masking, PreparePadded, after_filter_bank, masked, refuse_unequal
from ingest.networks.network import Layer, Network
from warehouse.store import UserError, first_line, sha256_json

DEFAULT_CLIP_S, LONGEST_DEFAULT_CLIP_S = 5.0, 10.24
# Vectors that only masking in training reads: a checkpoint may lack them without any effect on what the network computes.
TRAINING_ONLY = ("masked_spec_embed",)
FILLED = " Its classifier reads the whole input of {:g} s, with what clips are filled up with, as published."
OWN_FILE = "describe the network in a file of your own and give FILE.py:FUNCTION"

Prepare = Callable[[torch.Tensor], torch.Tensor]


class FirstOutput(nn.Module):
    """A transformers model with one tensor in and one out: the logits, or the last hidden states [clips, tokens, units].

    With `masking` what is NaN in the input is no part of a clip, and NaN in hidden states.
    """

    def __init__(self, model: Any) -> None:
        super().__init__()
        self.model = model
        self.masking: Masking | None = None

    def forward(self, inputs: torch.Tensor) -> torch.Tensor:
        """Prepared inputs to logits [clips, classes] or hidden states."""
        given = self.masking(inputs) if self.masking else {"inputs": inputs}
        outputs = self.model(**{self.model.main_input_name: given.pop("inputs")}, **given)
        logits = getattr(outputs, "logits", None)
        result = outputs.last_hidden_state if logits is None else logits
        return self.masking.blank(result, inputs.shape[1]) if self.masking else result


@dataclass
class Call:
    """One execution of a module: its path, the tensor it took and the tensor it gave (the first of several)."""

    path: str
    module: nn.Module
    given: Any
    result: Any


@torch.inference_mode()
def trace(module: nn.Module, inputs: torch.Tensor) -> tuple[list[Call], torch.Tensor]:
    """All module calls of one forward pass in the order in which they end, and the pass's result."""
    calls: list[Call] = []
    handles = []
    for path, part in module.named_modules():

        def record(part: nn.Module, args: tuple, kwargs: dict, result: Any, path: str = path) -> None:
            given = next((value for value in (*args, *kwargs.values()) if isinstance(value, torch.Tensor)), None)
            calls.append(Call(path, part, given, _tensor(result)))

        handles.append(part.register_forward_hook(record, with_kwargs=True))
    try:
        return calls, module(inputs)
    finally:
        for handle in handles:
            handle.remove()


def _tensor(result: Any) -> torch.Tensor | None:
    if isinstance(result, (tuple, list)) and result:
        result = result[0]
    return result if isinstance(result, torch.Tensor) else None


def find_blocks(module: nn.Module) -> list[str]:
    """Paths of the repeated blocks in order: the entries of the longest list of modules of one type with linear layers in them.

    Lists inside a block are passed over. Raises UserError when there is no such list.
    """
    found: dict[str, nn.ModuleList] = {}
    for path, part in module.named_modules():
        if not isinstance(part, nn.ModuleList) or any(path.startswith(outer + ".") for outer in found):
            continue
        if len({type(block) for block in part}) == 1 and all(sum(isinstance(m, nn.Linear) for m in block.modules()) > 1 for block in part):
            found[path] = part
    if not found:
        raise UserError(f"{type(module).__name__} has no list of repeated blocks with linear layers: {OWN_FILE}")
    longest = max(found, key=lambda path: len(found[path]))
    return [f"{longest}.{index}" for index in range(len(found[longest]))]


def block_layers(block: str, calls: list[Call]) -> list[tuple[str, Call]]:
    """What is recorded of one block, in order of execution: `attention` (output projection), `mlp_in` (before the activation), `mlp_out`.

    The width of the block's output tells the two kinds of linear layers apart: MLP layers change it, projections keep it, and the last
    projection to run is the attention's output. Raises UserError when the block does not have this structure.
    """
    result = next(call.result for call in calls if call.path == block)
    inside = [call for call in calls if call.path.startswith(block + ".")]
    ran = Counter(call.path for call in inside)
    linears = [call for call in inside if isinstance(call.module, nn.Linear) and ran[call.path] == 1]
    width = result.shape[-1]
    roles: dict[int, str] = {}
    pending: list[int] = []
    projection = None
    for index, call in enumerate(linears):
        sizes = (call.module.in_features, call.module.out_features)
        if sizes == (width, width):
            projection, pending = index, []
        elif sizes[0] == width:
            pending.append(index)
        elif sizes[1] == width and any(linears[other].module.out_features == sizes[0] for other in pending):
            roles |= {other: "mlp_in" for other in pending if linears[other].module.out_features == sizes[0]}
            roles[index] = "mlp_out"
            pending = []
    if "mlp_out" not in roles.values():
        raise UserError(f"{block} has no pair of linear layers that widen and narrow again (MLP): {OWN_FILE}")
    found = [(roles[index], linears[index]) for index in sorted(roles)]
    attention = linears[projection] if projection is not None else _after_attention(block, inside, ran, width)
    order = {id(call): number for number, call in enumerate(inside)}
    return sorted([("attention", attention), *found], key=lambda item: order[id(item[1])])


def _after_attention(block: str, inside: list[Call], ran: Counter, width: int) -> Call:
    """Stand-in for an output projection whose weights a fused function reads without calling the layer (WavLM).

    The attention module's result is the projection's output; of the modules that receive that very tensor and pass it on unchanged in
    evaluation, the first is taken, since the attention module itself gives a tuple.
    """
    for attention in inside:
        silent = [
            part
            for name, part in attention.module.named_modules()
            if isinstance(part, nn.Linear) and not ran[f"{attention.path}.{name}"] and part.in_features == part.out_features == width
        ]
        if not silent or attention.result is None:
            continue
        for call in inside:
            if isinstance(call.module, (nn.Dropout, nn.Identity)) and call.given is attention.result and ran[call.path] == 1:
                return call
    raise UserError(f"{block} has no linear layer for its attention's output that runs by itself: {OWN_FILE}")


def patch_times(calls: list[Call], first_block: str, tokens: int, inputs: torch.Tensor) -> tuple[tuple[int, ...], float] | None:
    """Time index of every token, and time steps of the input per index, for networks that cut a spectrogram into patches; else None.

    The patch embedding is the two-dimensional convolution before the blocks. Which of its axes is time shows in the shapes: prepared
    inputs are [clips, frames, bands], the convolution sees [clips, 1, bands, frames] or [clips, 1, frames, bands]. Patches are flattened
    row by row, and tokens that are no patches (CLS, distillation) come first.
    """
    for call in calls:
        if call.path.startswith(first_block):
            return None
        if isinstance(call.module, nn.Conv2d) and inputs.dim() == 3:
            rows, columns = call.result.shape[-2:]
            extra = tokens - rows * columns
            if not 0 <= extra <= 2:
                continue
            if tuple(call.given.shape[-2:]) == (inputs.shape[2], inputs.shape[1]):
                times, stride = tuple(range(columns)) * rows, call.module.stride[1]
            else:
                times, stride = tuple(row for row in range(rows) for _ in range(columns)), call.module.stride[0]
            return (-1,) * extra + times, stride
    return None


def build_network(
    name: str,
    model: Any,
    prepare: Prepare,
    *,
    prepare_padded: PreparePadded | None = None,
    sample_rate_hz: int,
    clip_s: float,
    input_s: float | None = None,
    output_names: list[str] | None = None,
    note: str | None = None,
) -> Network:
    """A Network around a transformers model (classifier or encoder), its layers found in one forward pass over noise.

    `prepare` takes waveforms [clips, samples] to the model's input; `prepare_padded` takes beside them how many samples of each are sound,
    where the model is to hear those alone (see Padding). `input_s` is the fixed length that it pads every clip to, if it does:
    then only what lies within a clip counts. Layers: per block `attention`, `mlp_in` and `mlp_out`, then `classifier` [classes]; where it is named,
    `residual`, what the block puts out.
    Raises UserError when the structure is not found.
    """
    module = FirstOutput(model).eval().requires_grad_(False)
    noise = torch.randn(1, round(clip_s * sample_rate_hz), generator=torch.Generator().manual_seed(0)) * 0.1
    try:
        inputs = prepare(noise)
        calls, outputs = trace(module, inputs)
    except (RuntimeError, ValueError, TypeError, AttributeError, IndexError, NotImplementedError) as error:
        raise UserError(f"{name} cannot be run on a clip of {clip_s:g} s of sound alone ({first_line(error)}): {OWN_FILE}") from None
    ran = {call.path for call in calls}
    blocks = [block for block in find_blocks(module) if block in ran]
    layers: list[Layer] = []
    streams: list[Layer] = []
    window_s, stride = input_s, 0.0
    for number, block in enumerate(blocks, start=1):
        seen: Counter = Counter()
        for role, call in block_layers(block, calls):
            seen[role] += 1
            shape = tuple(call.result.shape[1:])
            if len(shape) != 2:
                raise UserError(f"{name}: {call.path} puts out {list(shape)} instead of tokens x units: {OWN_FILE}")
            patches = patch_times(calls, blocks[0], shape[0], inputs)
            if patches and input_s:
                window_s = (max(patches[0]) + 1) * patches[1] * input_s / inputs.shape[1]
                stride = patches[1]
            label = f"block{number}/{role}" + (f"_{seen[role]}" if seen[role] > 1 else "")
            layers.append(Layer(label, call.path, shape, "token,unit", token_times=patches[0] if patches else None))
        streams += [replace(layers[-1], name=f"block{number}/residual", module=call.path, shape=tuple(call.result.shape[1:]))
                    for call in calls if call.path == block and call.result is not None and call.result.dim() == 3]  # fmt: skip
    if output_names is not None:
        layers.append(_classifier(name, blocks, calls, outputs, len(output_names)))
    padding = None
    if prepare_padded and input_s:
        padding = after_filter_bank(prepare_padded, sample_rate_hz, stride) if stride else None
    elif prepare_padded:
        module.masking = Masking(model)
        padding = masked(module.masking, prepare_padded, round(clip_s * sample_rate_hz))
    network = Network(
        name,
        str(model.config.model_type),
        module,
        sample_rate_hz=sample_rate_hz,
        clip_s=clip_s,
        layers=layers,
        checkpoint_sha256=tensor_sha256(model.state_dict()),
        window_s=window_s,
        output_names=output_names,
        note=note,
        counts_padding=input_s is None,
        padding=padding,
        prepare=prepare,
    )
    network.streams = streams
    return refuse_unequal(network) if module.masking else network


def _classifier(name: str, blocks: list[str], calls: list[Call], outputs: torch.Tensor, classes: int) -> Layer:
    for call in reversed(calls):
        outside = not call.path.startswith(tuple(block + "." for block in blocks))
        if isinstance(call.module, nn.Linear) and outside and call.result.shape == outputs.shape == (1, classes):
            return Layer("classifier", call.path, (classes,), "unit")
    raise UserError(f"{name} names {classes} classes but its last linear layer does not put out [clips, {classes}]: {OWN_FILE}")


def load_transformer(spec: str, clip_s: float | None = None) -> Network:
    """A transformers audio classifier or encoder from a local folder (as `save_pretrained` writes it) or by its hub name.

    Of encoder-decoder models the encoder is taken, of others trained for something else the base model. Every key of the checkpoint must
    fit the class that the checkpoint names. `clip_s` defaults to 5 s, for networks with a fixed input to its length, at most 10.24 s.
    Nothing of a checkpoint's own code is run. Raises UserError in one line for whatever cannot be read.
    """
    import transformers

    try:
        with quiet():
            return _load(transformers, spec, clip_s)
    except UserError:
        raise
    except Exception as error:  # the library raises nearly every kind of error for a bad folder
        what = "cannot be loaded as a transformers model" if Path(spec).is_dir() else "is no folder here, and the hub does not give it"
        raise UserError(f"{spec} {what} ({type(error).__name__}: {first_line(error)})") from None


def _load(transformers: Any, spec: str, clip_s: float | None) -> Network:
    options = {"local_files_only": Path(spec).is_dir(), "trust_remote_code": False}
    config = transformers.AutoConfig.from_pretrained(spec, **options)
    extractor = transformers.AutoFeatureExtractor.from_pretrained(spec, **options)
    architecture: Any = getattr(transformers, (config.architectures or [""])[0], None)
    is_model: bool = inspect.isclass(architecture) and issubclass(architecture, transformers.PreTrainedModel)
    if not is_model:
        raise UserError(f"{spec}: config.json names no model class of transformers {transformers.__version__} under architectures")
    model, info = architecture.from_pretrained(
        spec,
        output_loading_info=True,
        ignore_mismatched_sizes=True,  # so that they are listed rather than raised; they are refused below
        dtype=torch.float32,
        weights_only=True,
        **options,
    )
    _refuse_misfits(spec, info)
    output_names = None
    if architecture.__name__.endswith(("ForAudioClassification", "ForSequenceClassification")):
        output_names = [str(config.id2label[index]) for index in range(config.num_labels)]
    else:
        model = model.base_model
        if getattr(model.config, "is_encoder_decoder", False):
            model = model.get_encoder()
    prepare, prepare_padded, input_s = preparation(transformers, extractor, spec)
    clip_s = clip_s if clip_s is not None else min(input_s or DEFAULT_CLIP_S, LONGEST_DEFAULT_CLIP_S)
    if not 0 < clip_s < math.inf or (input_s and clip_s > input_s):
        raise UserError(f"{spec} cannot take clips of {clip_s:g} s: give " + (f"at most {input_s:g} s" if input_s else "a positive length"))
    network = build_network(
        Path(spec).resolve().name if options["local_files_only"] else spec,
        model,
        prepare,
        prepare_padded=prepare_padded,
        sample_rate_hz=int(extractor.sampling_rate),
        clip_s=clip_s,
        input_s=input_s,
        output_names=output_names,
        note=f"Loaded with transformers as {architecture.__name__}." + (FILLED.format(input_s) if input_s and output_names else ""),
    )
    written = {"config": config.get_config_dict(spec, **options), "preprocessor": extractor.get_feature_extractor_dict(spec, **options)}
    for name, (settings, _) in written.items():  # as they are written, but for where from and by which version
        kept = {key: value for key, value in settings.items() if not key.startswith("_") and key != "transformers_version"}
        network.shaped_by[name] = sha256_json(kept)
    return network


def _refuse_misfits(spec: str, info: dict[str, Any]) -> None:
    missing = sorted(key for key in info["missing_keys"] if not key.endswith(TRAINING_ONLY))
    faults = [f"{len(missing)} missing, first {missing[0]}"] if missing else []
    unexpected = sorted(info["unexpected_keys"])
    if unexpected:
        faults.append(f"{len(unexpected)} unexpected, first {unexpected[0]}")
    mismatched = sorted(info["mismatched_keys"], key=lambda item: item[0])
    if mismatched:
        key, found, wanted = mismatched[0]
        faults.append(f"{len(mismatched)} of the wrong shape, first {key} {list(found)} instead of {list(wanted)}")
    if faults:
        raise UserError(f"{spec} does not fit the network that its config.json describes: keys {'; '.join(faults)}")


def preparation(transformers: Any, extractor: Any, spec: str) -> tuple[Prepare, PreparePadded | None, float | None]:
    """How a feature extractor turns waveforms [clips, samples] into inputs; how where only some samples of each are sound, None when it pads
    the sound itself with silence; and the seconds it pads them to, None when it does not."""
    if isinstance(extractor, transformers.WhisperFeatureExtractor) and not extractor.dither:
        return whisper_features(extractor), None, float(extractor.chunk_length)
    key = extractor.model_input_names[0]

    def prepare(waveforms: torch.Tensor) -> torch.Tensor:
        clips = list(waveforms.float().cpu().numpy())
        given = extractor(clips, sampling_rate=extractor.sampling_rate, return_tensors="pt")
        features, held = given[key].to(device=waveforms.device, dtype=torch.float32), given.get("attention_mask")
        if held is None or held.shape != features.shape[:2] or features.dim() < 3:
            return features
        return features.masked_fill(held.to(features.device)[:, :, None] == 0, torch.nan)  # of two frames the second may be none

    def prepare_padded(waveforms: torch.Tensor, samples: torch.Tensor) -> torch.Tensor:
        inputs: torch.Tensor | None = None
        for row, (waveform, count) in enumerate(zip(waveforms, samples.tolist(), strict=True)):
            whole = count == len(waveform)
            found = None
            with contextlib.suppress(RuntimeError, ValueError, AssertionError, IndexError):  # too short: NaN
                found = prepare(waveform[None, :count])[0]
            if inputs is None:
                shape = found.shape if whole and found is not None else prepare(torch.zeros_like(waveform)[None]).shape[1:]
                inputs = torch.full((len(waveforms), *shape), torch.nan, device=waveforms.device)
            if found is not None:
                inputs[row, : len(found)] = found
        assert inputs is not None
        return inputs

    if isinstance(extractor, transformers.ASTFeatureExtractor):
        return prepare, prepare_padded, extractor.max_length * 0.010  # its frames are 10 ms apart
    one, two = (prepare(torch.zeros(1, seconds * extractor.sampling_rate)).shape for seconds in (1, 2))
    if one == two:
        raise UserError(f"{spec}: {type(extractor).__name__} pads every clip to one length that Auricle does not know: {OWN_FILE}")
    return prepare, prepare_padded, None


def whisper_features(extractor: Any) -> Prepare:
    """Whisper's log-mel spectrogram in torch: waveforms [clips, samples] padded to the extractor's length, to [clips, bands, frames].

    The same as WhisperFeatureExtractor, for a batch at once: power spectrum, log10 with a floor of 1e-10 and of 8 below the clip's
    highest value, then (x + 4) / 4.
    """
    filters = torch.from_numpy(extractor.mel_filters).float()
    samples = extractor.n_samples

    def prepare(waveforms: torch.Tensor) -> torch.Tensor:
        padded = nn.functional.pad(waveforms.float(), (0, samples - waveforms.shape[1]))
        window = torch.hann_window(extractor.n_fft, device=padded.device)
        spectrum = torch.stft(padded, extractor.n_fft, extractor.hop_length, window=window, return_complex=True)[..., :-1]
        log_mel = (filters.T.to(padded.device) @ spectrum.abs().square()).clamp_min(1e-10).log10()
        floor = log_mel.amax(dim=(1, 2), keepdim=True) - 8.0
        return (torch.maximum(log_mel, floor) + 4.0) / 4.0

    return prepare
