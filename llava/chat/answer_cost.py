"""What an answer cost, as a line for people and as JSON for programs."""

from llava.chat.session import ChatSession
from llava.chat.types import Answer, Tokens
from llava.model.compression import TowerFlops
from llava.utils import versions

PACKAGES = ("aot-video", "torch", "transformers", "av", "decord", "flash-attn")


def frames(count: int) -> str:
    """A number of frames in words."""
    return f"{count} frame{'s' * (count != 1)}"


def stats(answer: Answer) -> list[str]:
    """Frames, tokens before and after, retention, milliseconds by stage, peak memory: a line's parts."""
    times = answer.timings
    memory = ", ".join(f"{mib:.0f} MiB {kind.upper()}" for kind, mib in answer.peak_memory.items())
    bound = f" ({answer.bound})" if answer.bound in ("max_tokens", "distortion") else ""
    newlines = f" (+{answer.after.newline} newline)" if answer.after.newline else ""
    return [
        frames(answer.frames),
        *([f"images {answer.image_tokens} tokens"] if answer.image_tokens else []),
        f"{answer.before.visual} → {answer.after.visual} tokens{newlines}",
        f"retention {100 * answer.retention:.3g} %{bound}",
        *([f"decode {times['decode']:.0f} ms"] if "decode" in times else []),
        f"tower {times['tower']:.0f} ms{_saved(answer.tower_flops)}",
        f"compression {times['compress']:.1f} ms",
        f"first token {times['first_token']:.0f} ms",
        f"peak {memory}",
    ]


def as_json(answer: Answer, session: ChatSession, model_path: str) -> dict:
    """Everything about one answer, in plain JSON values."""
    loaded = session.loaded
    video = loaded and {
        "path": loaded.path,
        "frames": len(loaded.video.times),
        "streamed": loaded.streamed,
        "cached": loaded.cached,
        "times_s": [round(float(time), 3) for time in loaded.video.times],
        "duration_s": round(loaded.video.duration, 3),
        "decoder": loaded.video.decoder,
    }
    images = [{"path": image.path, "size": list(image.size), "tokens": image.tokens} for image in session.images]
    few_bits = getattr(session.model.config, "quantization_config", None)
    return {
        "question": answer.question,
        "answer": answer.text,
        "model": {
            "path": model_path,
            "device": str(session.model.device),
            "dtype": str(session.model.dtype),
            "tower_dtype": str(session.tower_dtype),
            **({} if few_bits is None else {"quantization": few_bits.to_dict()}),
        },
        "note": session.prompt_style.note,
        "video": video,
        **({"images": images} if images else {}),
        **cost(answer),
        "versions": versions(PACKAGES),
    }


def cost(answer: Answer) -> dict:
    """Settings, token counts, operations of the tower, timings and memory of one answer."""
    return {
        "settings": answer.settings,
        "tokens": {
            "before": _tokens(answer.before),
            "after": _tokens(answer.after),
            "answer": answer.new_tokens,
            "prefilled": answer.prefilled,
        },
        "retention": answer.retention,
        "bound": answer.bound,
        "tower_flops": answer.tower_flops and answer.tower_flops._asdict(),
        "timings_ms": {stage: round(ms, 3) for stage, ms in answer.timings.items()},
        "peak_memory_mib": {kind: round(mib, 1) for kind, mib in answer.peak_memory.items()},
    }


def _saved(flops: TowerFlops | None) -> str:
    """Which part of its operations the tower spent, where that is not all."""
    return f" ({100 * flops.spent / flops.whole:.0f} % of its FLOPs)" if flops and flops.spent < flops.whole else ""


def _tokens(tokens: Tokens) -> dict[str, int]:
    return {"visual": tokens.visual, "newline": tokens.newline, "total": tokens.visual + tokens.newline}
