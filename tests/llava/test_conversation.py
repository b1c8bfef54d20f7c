import copy

import pytest

from llava.conversation import Conversation, SeparatorStyle, conv_templates


def test_qwen_prompt_is_the_chat_format():
    conversation = conv_templates["qwen_1_5"].copy()
    conversation.append_message(conversation.roles[0], "<image>\nWhat moves?")
    conversation.append_message(conversation.roles[1], None)
    assert conversation.get_prompt() == (
        "<|im_start|>system\nYou are a helpful assistant.<|im_end|>\n"
        "<|im_start|>user\n<image>\nWhat moves?<|im_end|>\n<|im_start|>assistant\n"
    )


def test_second_turn_closes_the_first_answer():
    conversation = conv_templates["qwen_1_5"].copy()
    for role, text in ((0, "a"), (1, "b"), (0, "c"), (1, None)):
        conversation.append_message(conversation.roles[role], text)
    assert conversation.get_prompt().endswith(
        "<|im_start|>user\na<|im_end|>\n<|im_start|>assistant\nb<|im_end|>\n"
        "<|im_start|>user\nc<|im_end|>\n<|im_start|>assistant\n"
    )


@pytest.mark.parametrize("clone", [copy.deepcopy, Conversation.copy])
def test_copies_leave_the_template_alone(clone):
    template = conv_templates["qwen_1_5"]
    clone(template).append_message(template.roles[0], "hello")
    assert template.messages == []


def test_aliases_are_the_same_template():
    assert conv_templates["qwen_2"] is conv_templates["qwen_1_5"]


def test_plain_style_joins_texts():
    conversation = conv_templates["plain"].copy()
    conversation.append_message("", "<image>")
    conversation.append_message("", "a cat")
    assert conversation.get_prompt() == "<image>\na cat\n"


def test_style_without_format_is_refused():
    with pytest.raises(ValueError, match="CHATML"):
        Conversation(system="", roles=("a", "b"), sep_style=SeparatorStyle.TWO).get_prompt()
