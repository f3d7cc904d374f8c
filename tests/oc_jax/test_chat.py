import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from oc_jax import chat


class Characters:
    """One token per character; <|im_start|> and <|im_end|> are -1 and -2."""

    im_start, im_end = -1, -2

    def encode(self, text):
        return [ord(c) for c in text]


def spell(ids):
    return "".join({-1: "<|im_start|>", -2: "<|im_end|>"}.get(i) or chr(i) for i in ids)


def template(messages, generation_prompt):
    """The Jinja template of the released models, in three lines."""
    if messages[0]["role"] != "system":
        messages = [{"role": "system", "content": "You are OpenCoder, created by OpenCoder Team."}, *messages]
    text = "".join(f"<|im_start|>{m['role']}\n{m['content']}<|im_end|>\n" for m in messages)
    return text + ("<|im_start|>assistant\n" if generation_prompt else "")


conversations = st.lists(
    st.fixed_dictionaries({"role": st.sampled_from(["user", "assistant"]), "content": st.text("ab\n <|", max_size=8)}),
    min_size=1,
    max_size=5,
)


@given(conversations, st.booleans(), st.booleans())
def test_tokens_spell_the_template_and_only_answers_are_trained(messages, system, generation_prompt):
    if system:
        messages = [{"role": "system", "content": "Be brief."}, *messages]
    ids, mask = chat.render(messages, Characters(), generation_prompt=generation_prompt)
    assert spell(ids) == template(messages, generation_prompt)
    trained = spell(i for i, m in zip(ids, mask, strict=True) if m)
    assert trained == "".join(m["content"] + "<|im_end|>" for m in messages if m["role"] == "assistant")


def test_a_generation_prompt_is_a_prefix_of_the_rendered_answer():
    question = [{"role": "user", "content": "Why?"}]
    prompt, _ = chat.render(question, Characters(), generation_prompt=True)
    whole, mask = chat.render([*question, {"role": "assistant", "content": "So."}], Characters())
    assert whole[: len(prompt)] == prompt
    assert spell(whole[len(prompt) :]) == "So.<|im_end|>\n"
    assert mask == [False] * len(prompt) + [True] * 4 + [False]


@pytest.mark.parametrize(
    "messages, message", [([], "at least one"), ([{"role": "tool", "content": ""}], "role 'tool'")]
)
def test_bad_conversations_are_refused(messages, message):
    with pytest.raises(ValueError, match=re.escape(message)):
        chat.render(messages, Characters())
