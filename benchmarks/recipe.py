"""The embedded recipe's data and model, as the benchmarks use them."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from mooer_tk.config import Config, load_config
from mooer_tk.data.kaldi_dir import read_table, write_table
from mooer_tk.errors import UserError
from mooer_tk.llm.causal_lm import load_llm
from mooer_tk.llm.checkpoint import build_model, load_adapter
from mooer_tk.llm.prompt import named_prompt
from mooer_tk.llm.speech_llm import SpeechLLM
from mooer_tk.train.examples import Example, Source, load_examples

WORDS = 3  # dev prompts of fewer words say little
# As egs/asterisk/mooer/run.sh has them: task, language, weight of a pass.
SOURCES = (("asr", "en", 4.0), ("ast", "es", 1.5), ("asr_ast", "es", 0.5))
TTS_WEIGHT = 0.3


@dataclass
class Recipe:
    """A recipe's directory after stage 3 (and stage 4, for what starts from the warm start)."""

    folder: Path

    @property
    def config(self) -> Config:
        """The recipe's own config."""
        return load_config(self.folder / "conf" / "mooer.yaml")

    @property
    def warm_start(self) -> Path:
        """The adapter of stage 4."""
        path = self.folder / "exp" / "mooer" / "warm_start" / "adapter.safetensors"
        if not path.is_file():
            raise UserError(f"{path} is missing: run `./run.sh --stop-stage 4` in {self.folder} first.")
        return path

    def sources(self) -> list[str]:
        """Training data in the command line's form."""
        lines = []
        for task, lang, weight in SOURCES:
            tables = f"{self.folder}/data/{lang}/train_pl/text"
            tables += f"+{self.folder}/data/{lang}/train_pl/text.en" if task != "asr" else ""
            lines.append(f"{task}:{self.folder}/dump/{lang}/train:{tables}:{weight}")
        return [*lines, f"asr:{self.folder}/dump/tts:{self.folder}/data/tts/speech/text:{TTS_WEIGHT}"]

    def dev(self, out: Path) -> str:
        """English dev prompts of three words and more, by human text; their table is written to `out`."""
        texts = read_table(self.folder / "data" / "en" / "dev" / "text")
        write_table(out / "dev_text", {utt: text for utt, text in texts.items() if len(text.split()) >= WORDS})
        return f"asr:{self.folder}/dump/en/dev:{out}/dev_text"

    def wavs(self) -> dict[str, str]:
        """utt -> file, of all that is trained on."""
        folders = [*(self.folder / "data" / lang / "train" for lang in ("en", "es")), self.folder / "data/tts/speech"]
        return {utt: path for folder in folders for utt, path in read_table(folder / "wav.scp").items()}

    def examples(self, lines: list[str], tokenizer: object) -> list[Example]:
        """Examples of sources."""
        config = self.config
        sources = [Source.parse(line) for line in lines]
        return load_examples(sources, config.train.data, named_prompt(config.prompt), tokenizer, None, max_skip=0.9)

    def model(self, dtype: str = "") -> SpeechLLM:
        """The model as stage 5 starts with it, always the same; `dtype` of the frozen weights if not the recipe's."""
        import torch

        config = self.config
        config.llm.dtype = dtype or config.llm.dtype
        torch.manual_seed(config.train.seed)
        weights = load_adapter(self.warm_start)
        model = build_model(config, len(weights["adapter.mean"]), adapter=weights, llm=load_llm(config.llm))
        model.precision = config.train.precision
        return model
