"""ONE prompt object, saved with the checkpoint and used by training, decoding and serving.

MooER's layout (its released code): the speech embeddings stand before the whole chat template, the answer and eos
follow it. Prompt and answer are tokenised apart and joined, so that no text in a transcript can shift the loss mask.
"""

import json
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Self

from mooer_tk.data.atomic import write_json
from mooer_tk.errors import UserError, nearest

SPEECH = "<speech>"
CHATML = (
    SPEECH + "<|im_start|>system\nYou are a helpful assistant.<|im_end|>\n"
    "<|im_start|>user\n{instruction}<|im_end|>\n<|im_start|>assistant\n"
)


@dataclass(frozen=True)
class Prompt:
    """Template with a `<speech>` slot and an `{instruction}`, one instruction per task, and the joiner of asr_ast."""

    template: str = CHATML
    instructions: dict[str, str] = field(
        default_factory=lambda: {
            "asr": "Transcribe speech to text. ",
            "ast": "Translate speech to english text. ",
            "asr_ast": "Transcribe speech to text, then translate it to english text. ",
        }
    )
    # MooER's published joiner equals eos, so that decoding stopped after the transcript.
    joiner: str = "\n"
    # Stands before every answer; with a blank, a word has the same tokens at the start as elsewhere.
    lead: str = ""

    def __post_init__(self) -> None:
        if self.template.count(SPEECH) != 1 or self.template.count("{instruction}") != 1:
            raise UserError(f"a prompt template needs one {SPEECH} and one {{instruction}}: {self.template!r}")

    def check_task(self, task: str) -> None:
        """Raise a UserError when the prompt has no instruction for `task`."""
        if task not in self.instructions:
            raise UserError(f"task '{task}' has no instruction in this prompt: {nearest(task, self.instructions)}")

    def around(self, task: str, tokenizer: Any) -> tuple[list[int], list[int]]:
        """Token ids before and after the speech for a task."""
        self.check_task(task)
        before, after = self.template.split(SPEECH)
        instruction = self.instructions[task]
        return tuple(
            tokenizer.encode(part.replace("{instruction}", instruction), add_special_tokens=False) if part else []
            for part in (before, after)
        )

    def answer(self, parts: list[str], tokenizer: Any) -> list[int]:
        """Token ids of an answer (its parts joined) and eos; special tokens inside a transcript stay plain text."""
        text = self.lead + self.joiner.join(parts)
        ids = tokenizer.encode(text, add_special_tokens=False, split_special_tokens=True)
        return [*ids, tokenizer.eos_token_id]

    def parts(self, text: str, task: str) -> dict[str, str]:
        """Split a generated answer into its tasks: {"asr": ..., "ast": ...} as far as it has them."""
        if task != "asr_ast":
            return {task: text.strip()}
        first, _, second = text.strip().partition(self.joiner)
        return {"asr": first.strip(), "ast": second.strip()}

    def save(self, path: Path | str) -> None:
        """Write the prompt as JSON."""
        write_json(path, asdict(self))

    @classmethod
    def load(cls, path: Path | str) -> Self:
        """Read a prompt that `save` wrote."""
        try:
            return cls(**json.loads(Path(path).read_text(encoding="utf-8")))
        except (OSError, ValueError, TypeError) as error:
            raise UserError(f"cannot read the prompt {path}: {error}. Export the model again (stage 6).") from error


PROMPTS = {
    "chatml": Prompt(),
    "chatml_lead": Prompt(lead=" "),
    # MooER's multi-task release answers its ast instruction with both lines.
    "chatml_mtl": Prompt(instructions={**Prompt().instructions, "asr_ast": Prompt().instructions["ast"]}),
}


def named_prompt(name: str) -> Prompt:
    """A prompt of the table above by name."""
    if name not in PROMPTS:
        raise UserError(f"prompt '{name}' is unknown: {nearest(name, PROMPTS)}")
    return PROMPTS[name]
