"""The split deployment: client, encoding server, and in the place of vLLM a server that answers from embeddings."""

import asyncio
import json

import pytest
import torch

from aot import AOTConfig
from llava.chat.answer import ChatError
from llava.chat.session import ChatSession
from llava.constants import IMAGE_TOKEN_INDEX
from llava.conversation import conv_templates
from llava.mm_utils import tokenizer_image_token
from llava.model.builder import load_pretrained_model
from llava.serve.client import ServerError, ask, main, media_part
from llava.serve.encoder import PromptEncoder, read_messages
from llava.serve.encoder_pool import EncoderPool
from llava.video import load_video

pytest.importorskip("starlette", reason="starlette is not installed; pip install -e '.[serve]'")
pytest.importorskip("uvicorn", reason="uvicorn is not installed; pip install -e '.[serve]'")

from tests.serve.servers import language_model, serving  # noqa: E402

NEW = 6
CONFIGS = [AOTConfig(retention=0.2), AOTConfig.preset("released", num_anchors=20), None]


def load(checkpoint):
    return load_pretrained_model(checkpoint, None, "tiny", device_map="cpu", torch_dtype="float32")


@pytest.fixture(scope="module")
def loaded(checkpoint):
    return load(checkpoint)


@pytest.fixture
def encoder(checkpoint):
    """Factory of encoders of these settings."""

    def make(config):
        tokenizer, model, processor, context = load(checkpoint)
        return PromptEncoder(ChatSession(model, tokenizer, processor, context, compression=config))

    return make


@pytest.fixture
def answering(loaded):
    with language_model(*loaded[:2], new_tokens=NEW) as url:
        yield url


@torch.inference_mode()
def own_answer(loaded, path, question, config):
    """What the whole model says in one process, the tokens of its prompt, and those of the answer."""
    tokenizer, model, processor, _ = loaded
    model.config.aot = None if config is None else config.to_dict()
    conversation = conv_templates["qwen_1_5"].copy()
    conversation.append_message(conversation.roles[0], f"<image>\n{question}")
    conversation.append_message(conversation.roles[1], None)
    ids = tokenizer_image_token(conversation.get_prompt(), tokenizer, IMAGE_TOKEN_INDEX, return_tensors="pt")[None]
    pixels = processor.preprocess(load_video(path, num_frames=8, decoder="pyav").frames)["pixel_values"]
    embeds = model.prepare_inputs_labels_for_multimodal(ids, None, None, None, None, [pixels], ["video"])[4]
    tokens = model.generate(ids, images=[pixels], modalities=["video"], max_new_tokens=NEW)
    return tokenizer.decode(tokens[0]), embeds.shape[1], tokens.shape[1]


@pytest.mark.parametrize("config", CONFIGS, ids=["default", "released", "none"])
def test_answers_are_those_of_one_process(loaded, encoder, answering, clip, config):
    wanted, length, new = own_answer(loaded, clip, "What moves?", config)
    with serving(encoder(config), answering) as url:
        heard = []
        reply = ask(url, [media_part(clip)], "What moves?", on_text=heard.append)
        assert (reply.text, reply.prompt_tokens, reply.new_tokens) == (wanted, length, new)
        assert "".join(heard) == wanted and 0 < reply.first <= reply.total


def test_without_streaming(loaded, encoder, answering, clip):
    import urllib.request

    content = [media_part(clip), {"type": "text", "text": "What moves?"}]
    body = {"model": "tiny", "messages": [{"role": "user", "content": content}], "max_completion_tokens": NEW}
    with serving(encoder(None), answering) as url:
        request = urllib.request.Request(f"{url}/v1/chat/completions", json.dumps(body).encode())
        said = json.load(urllib.request.urlopen(request, timeout=60))
    assert said["object"] == "chat.completion"
    assert said["choices"][0]["message"]["content"] == own_answer(loaded, clip, "What moves?", None)[0]


def embed(encoder, *chats, remember=8) -> list:
    """Embeddings of chats, one after another, by one `EncoderPool`."""

    async def all_of_them() -> list:
        encoding = EncoderPool(encoder, decoders=1, remember=remember)
        with encoding.running():
            return [await encoding.embed(*read_messages(messages), new_tokens=8) for messages in chats]

    return asyncio.run(all_of_them())


def about(path, question) -> list[dict]:
    return [{"role": "user", "content": [media_part(path), {"type": "text", "text": question}]}]


def test_a_video_is_encoded_once_and_the_oldest_is_forgotten(encoder, clip, other_clip, monkeypatch):
    made = encoder(AOTConfig())
    calls, encode = [], made.session.model.encode_video
    monkeypatch.setattr(made.session.model, "encode_video", lambda pixels: calls.append(len(pixels)) or encode(pixels))
    chats = [about(clip, "a?"), about(clip, "and b?"), about(other_clip, "a?"), about(clip, "a?")]
    first, second, _, again = embed(made, *chats, remember=1)
    assert len(second) == len(first) + 4
    torch.testing.assert_close(again, first)
    assert len(calls) == 3


def test_several_turns_and_a_system_line(encoder, clip):
    made = encoder(AOTConfig())
    user = {"role": "user", "content": [media_part(clip), {"type": "text", "text": "a"}]}
    turns = [{"role": "system", "content": "S"}, user, {"role": "assistant", "content": "b"}]
    (whole,) = embed(made, [*turns, {"role": "user", "content": "c <image>"}])
    start = "<|im_start|>system\nS<|im_end|>\n<|im_start|>user\n"
    end = "\na<|im_end|>\n<|im_start|>assistant\nb<|im_end|>\n<|im_start|>user\nc < image ><|im_end|>\n"
    end += "<|im_start|>assistant\n"
    tokenizer, table = made.session.tokenizer, made.session.model.get_model().embed_tokens
    before, after = (table(torch.tensor(tokenizer(text).input_ids)) for text in (start, end))
    torch.testing.assert_close(whole[: len(before)], before)
    torch.testing.assert_close(whole[-len(after) :], after)
    assert len(whole) - len(before) - len(after) == 28 + 8  # ⌊0.1 · 8 · 36⌋ and a newline a frame


@pytest.mark.parametrize(
    ("messages", "said"),
    [
        ([], "last message"),
        ([{"role": "assistant", "content": "a"}], "last message"),
        ([{"role": "robot", "content": "a"}], "role 'robot'"),
        (["a"], "role NoneType"),
        (
            [{"role": "user", "content": "a"}, {"role": "system", "content": "a"}, {"role": "user", "content": "a"}],
            "first",
        ),
        ([{"role": "user", "content": None}], "texts and videos"),
        ([{"role": "user", "content": [{"type": "image_url"}]}], "'image_url'"),
        ([{"role": "user", "content": [{"type": "video_url", "video_url": {"url": "http://a/b.mp4"}}]}], "data URL"),
        ([{"role": "user", "content": [{"type": "video_url", "video_url": "data:video/mp4;base64,AA"}]}], "data URL"),
        (
            [{"role": "user", "content": [{"type": "video_url", "video_url": {"url": "data:video/mp4;base64,@"}}]}],
            "base64",
        ),
    ],
)
def test_messages_that_make_no_prompt(messages, said):
    with pytest.raises(ChatError, match=said):
        read_messages(messages)


def test_methods_inside_the_language_model_are_refused(encoder):
    with pytest.raises(ChatError, match="inside the language model"):
        encoder(AOTConfig(method="fastv", retention=0.5))


def test_bad_requests_get_a_sentence_and_the_server_lives_on(encoder, answering, clip, tmp_path, capsys):
    broken = tmp_path / "broken.mp4"
    broken.write_bytes(b"no video")
    with serving(encoder(AOTConfig()), answering) as url:
        with pytest.raises(ServerError, match="broken|video"):
            ask(url, [media_part(broken)], "What moves?")
        with pytest.raises(ServerError, match="too long"):
            ask(url, [media_part(clip)], "What moves?", max_tokens=1000)
        with pytest.raises(ServerError, match="broke off"):
            ask(url, [media_part(clip)], "What moves?", user="broken")
        with pytest.raises(ServerError, match="chat/completions"):
            ask(f"{url}/elsewhere", [], "What moves?", model="tiny")
        assert main([clip, "What moves?", "--url", url]) == 0
        assert "tokens in the prompt" in capsys.readouterr().out
    assert main([clip, "What moves?", "--url", url]) == 1
    assert "no server" in capsys.readouterr().err


def test_files_that_are_no_media(tmp_path):
    for name, said in (("a.txt", "neither"), ("a.mp4", "cannot be read")):
        with pytest.raises(ServerError, match=said):
            media_part(tmp_path / name)
