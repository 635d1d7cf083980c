"""Cloze questions: pattern-verbalizer pairs (PET, arXiv 2001.07676) as GLM uses them.

A pattern is written as its parts, separated by ``|``; each part is tokenised by itself. ``{name}``
is filled from the example, ``~`` after a part says that it may be shortened to fit, and ``[MASK]``
is the blank. A pair of texts: the second segment is shortened in turn with the first, always the
longer of the two. One pattern per line; its place in the list is its ``pattern_id``.
"""

from __future__ import annotations

import string
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from glmkd_nemo.data.superglue.example import Example

BLANK = "[MASK]"

_ENTAILMENT = [
    ('"|{claim}~|" ?', '[MASK]|,| "|{premise}~|"'),
    ("{claim}~|?", "[MASK]|,| {premise}~"),
    ('"|{claim}~|" ?', '[MASK]|. "|{premise}~|"'),
    ("{claim}~|?", "[MASK]|.| {premise}~"),
]
_RTE_4 = "{premise}~| question:| {claim}~| True or False?| answer:|[MASK]"
_CB_4 = "{premise}~| question:| {hypothesis}~| true, false or neither?| answer:|[MASK]"
_BOOLQ = [
    "{passage}~| Question:| {question}~|? Answer:|[MASK]|.",
    "{passage}~| Based on the previous passage,| {question}~|?|[MASK]|.",
    "Based on the following passage| {question}~|?|[MASK]|.| {passage}~",
]
_WSC = [
    "{text}~| The pronoun '*{pronoun}*' refers to|[MASK]|.",
    "{text}~| In the previous sentence, the pronoun '*{pronoun}*' refers to|[MASK]|.",
    "{text}~| Question: In the passage above, what does the pronoun '*{pronoun}*' refer to?"
    "| Answer:|[MASK]|.",
]

PATTERNS: Mapping[str, Sequence[str | tuple[str, str]]] = {
    "record": ["{passage}~| {before}|[MASK]|{after}"],
    "copa": [
        '"|{choice1}|" or "|{choice2}|"?| {premise}~|{joiner}|[MASK]|.',
        "{choice1}| or| {choice2}|?| {premise}~|{joiner}|[MASK]|.",
        '"|{choice1}|" or "|{choice2}|"?|{premise}~|[MASK]| {choice}',  # because, so: the answer
    ],
    "wsc": [*_WSC],
    "wsc_generative": [*_WSC],
    "rte": [*_ENTAILMENT, _RTE_4],
    "cb": [*_ENTAILMENT, _CB_4],
    "boolq": [pattern for pattern in _BOOLQ for _ in range(2)],  # odd ones: other verbalizers
    "multirc": [
        "{passage}~|.| Question:| {question}?| Is it| {answer}|?|[MASK]|.",
        '{passage}~|.| Question:| {question}|?| Is the correct answer "|{answer}|"?|[MASK]|.',
        "{passage}~|. Based on the previous passage,| {question}|?"
        '| Is "|{answer}|" a correct answer?|[MASK]|.',
        "{passage}~| {question}|- [|[MASK]|]|{answer}",
        "{passage}~|.| Question:| {question}|?| {answer}|?|[MASK]|.",
    ],
    "wic": [
        '"{sentence1}" / "{sentence2}"~| Similar sense of "{word}"?|[MASK]|.',
        "{sentence1}~| {sentence2}~| Does {word} have the same meaning in both sentences?|[MASK]",
        '{word}| .| Sense (1) (a) "|{sentence1}~|"| (|[MASK]|) "|{sentence2}|"',
    ],
}

# one answer per label (in their order) for each pattern id
_VERBALIZERS: Mapping[str, Sequence[tuple[str, ...]]] = {
    "rte": [*[(" Yes", " No")] * 4, (" true", " false")],
    "cb": [*[(" Yes", " No", " Maybe")] * 4, (" true", " false", " neither")],
    "boolq": [(" No", " Yes"), (" false", " true")] * 3,
    "multirc": [*[(" No", " Yes")] * 3, (" False", " True"), (" No", " Yes")],
    "wic": [(" No", " Yes"), (" No", " Yes"), ("2", "b")],
}


@dataclass(frozen=True)
class TextPart:
    """A part of a filled pattern; `text` says nothing where it is the blank."""

    text: str
    shortenable: bool
    blank: bool = False


def filled(task: str, pattern_id: int, example: Example, choice: int = 0) -> list[list[TextPart]]:
    """The one or two segments of an example's question.

    Args:
        task: one of ``PATTERNS``.
        pattern_id: its pattern.
        example: what is asked.
        choice: the answer that stands in the context (COPA's pattern 2 only).
    """
    pattern = PATTERNS[task][pattern_id]
    segments = (pattern,) if isinstance(pattern, str) else pattern
    slots = _SLOTS[task](example)
    if task == "copa":
        slots["choice"] = slots[f"choice{choice + 1}"]
    return [[_part(part, slots) for part in segment.split("|")] for segment in segments]


def _part(template: str, slots: Mapping[str, str]) -> TextPart:
    if template == BLANK:
        return TextPart("", shortenable=False, blank=True)
    shortenable = template.endswith("~")
    return TextPart(template.removesuffix("~").format_map(slots), shortenable)


def asks_per_answer(task: str, pattern_id: int) -> bool:
    """Whether the answer stands in the question, and what is predicted is a word before it."""
    return task == "copa" and pattern_id == 2


def verbalizers(task: str, pattern_id: int) -> tuple[str, ...]:
    """One answer per label, in the order of the labels, each with the blank before it."""
    return _VERBALIZERS[task][pattern_id]


def answers(task: str, pattern_id: int, example: Example) -> list[str]:
    """Texts among which the example chooses, the one of label 0 first.

    COPA: the two choices (pattern 2: the joiner, twice); WSC: the span, then the wrong candidates;
    ReCoRD: the candidates; other tasks: their verbalizers.
    """
    meta = example.meta
    if task == "copa":
        if asks_per_answer(task, pattern_id):
            return [" because" if meta["question"] == "cause" else " so"] * 2
        return [" " + _choice(meta["choice1"]), " " + _choice(meta["choice2"])]
    if task in ("wsc", "wsc_generative"):
        return [" " + text for text in (meta["span1_text"], *meta.get("candidates", ()))]
    if task == "record":
        return [" " + text for text in meta["candidates"]]
    return list(verbalizers(task, pattern_id))


def without_final_punctuation(text: str) -> str:
    """The text without (ASCII) punctuation at its end."""
    return text.rstrip(string.punctuation)


def _choice(text: str) -> str:
    return without_final_punctuation(text[0].lower() + text[1:])


def _copa(example: Example) -> dict[str, str]:
    return {
        "premise": without_final_punctuation(example.text_a),
        "choice1": _choice(example.meta["choice1"]),
        "choice2": _choice(example.meta["choice2"]),
        "joiner": " because" if example.meta["question"] == "cause" else ", so",
    }


def marked_pronoun(example: Example) -> str:
    """WSC's text with asterisks around the pronoun."""
    words, place = example.text_a.split(), example.meta["span2_index"]
    words[place] = f"*{words[place]}*"
    return " ".join(words)


def _wsc(example: Example) -> dict[str, str]:
    return {"text": marked_pronoun(example), "pronoun": example.meta["span2_text"]}


def _record(example: Example) -> dict[str, str]:
    before, after = example.text_b.split("@placeholder")
    return {"passage": example.text_a, "before": before.rstrip(), "after": after}


def _entailment(example: Example) -> dict[str, str]:
    return {
        "premise": example.text_a,
        "hypothesis": example.text_b,
        "claim": without_final_punctuation(example.text_b),
    }


def _boolq(example: Example) -> dict[str, str]:
    return {"passage": example.text_a, "question": example.text_b}


def _multirc(example: Example) -> dict[str, str]:
    return {
        "passage": without_final_punctuation(example.text_a.rstrip()),
        "question": without_final_punctuation(example.text_b.rstrip()),
        "answer": example.meta["answer"],
    }


def _wic(example: Example) -> dict[str, str]:
    meta: dict[str, Any] = example.meta
    return {"sentence1": example.text_a, "sentence2": example.text_b, "word": meta["word"]}


_SLOTS = {
    "record": _record,
    "copa": _copa,
    "wsc": _wsc,
    "wsc_generative": _wsc,
    "rte": _entailment,
    "cb": _entailment,
    "boolq": _boolq,
    "multirc": _multirc,
    "wic": _wic,
}
