"""What commands there are, by their groups in the help: their modules, and examples.

A command's module has `add_options(parser)` and `execute(options)`, which returns the exit code.
"""

from dataclasses import dataclass

EXAMPLES = (
    "aot clip clip.mp4                   draw a clip; prints what to ask",
    "aot chat clip.mp4 --retention 10%   ask about it, on a tenth of the tokens",
    "aot chat --help                     the options of one command",
)


@dataclass(frozen=True)
class Command:
    """help: its line in the list. passes_on: arguments that it does not know go to another program."""

    module: str
    help: str
    description: str
    examples: tuple[str, ...]
    passes_on: bool = False


GROUPS = {
    "try it": {
        "demo": Command(
            "llava.chat.demo",
            "three questions about a clip, at 100 % and at 10 %",
            "Draw a clip and ask three questions, with all tokens and with a tenth of them.",
            ("aot demo", "aot demo --retention 25%"),
        ),
        "clip": Command(
            "llava.chat.sample_clip",
            "draw a sample clip and suggest questions",
            "Write a short MP4 of moving shapes; print questions and their true answers.",
            ("aot clip clip.mp4", "aot clip clip.mp4 --seed 7 --force"),
        ),
        "chat": Command(
            "llava.chat.chat",
            "ask about a video in the terminal",
            "Chat about a video with a model that sees a share of its tokens.",
            (
                'aot chat clip.mp4 --question "What shape is the green object?" --json',
                "aot chat holiday.mp4 --model-path lmms-lab/llava-onevision-qwen2-7b-ov",
            ),
        ),
        "watch": Command(
            "llava.chat.watch",
            "ask about a camera, a stream or a folder that grows",
            "Ask at any time about a source that goes on; its tokens stay within a number.",
            (
                "aot watch clip.mp4 --max-tokens 300",
                "aot watch /dev/video0",
                'ffmpeg -re -i FILM -f mjpeg - | aot watch - --question "What moves?" --every 9',
            ),
        ),
        "web": Command(
            "llava.chat.web",
            "ask about a video in a browser",
            "Serve a page to ask about videos, with all tokens and with a share of them.",
            ("aot web", "aot web --port 8080 --retention 25%"),
        ),
        "visualize": Command(
            "llava.chat.visualize",
            "draw what is kept of a video, and where the rest goes",
            "Draw what is kept of a video, why, and where the rest goes.",
            ("aot visualize clip.mp4", "aot visualize clip.mp4 --retention 5% --output pictures"),
        ),
    },
    "many questions": {
        "infer": Command(
            "llava.eval.infer",
            "answer a file of questions, resumable",
            "Answer a JSONL file of questions about videos, resumable.",
            ("aot infer --input questions.jsonl --output answers.jsonl --retention 10%",),
        ),
        "cache": Command(
            "llava.chat.cache",
            "list or clear the encoded videos that --cache keeps",
            "List the encoded videos that --cache keeps, or delete them.",
            ("aot cache", "aot cache --clear", "aot cache DIR     of chat --cache DIR"),
        ),
        "serve": Command(
            "llava.serve.vllm",
            "an OpenAI-compatible server on vLLM",
            "Serve a model with compressed videos on vLLM; other options go to vllm serve.",
            ("aot convert lmms-lab/llava-onevision-qwen2-7b-ov ov-7b", "aot serve ov-7b --retention 10% --port 8000"),
            passes_on=True,
        ),
        "encoder": Command(
            "llava.serve.encoder_server",
            "encode videos in front of a stock vLLM",
            "Encode and compress videos in front of a stock vLLM.",
            (
                "vllm serve MODEL --enable-prompt-embeds --port 8001",
                "aot encoder --model-path CHECKPOINT --vllm http://localhost:8001",
            ),
        ),
        "ask": Command(
            "llava.serve.client",
            "ask such a server about a video or picture",
            "Ask a server about a video or picture file.",
            ('aot ask clip.mp4 "What happens in this video?" --url http://localhost:8000',),
        ),
    },
    "evaluate": {
        "exam": Command(
            "llava.eval.exam.command",
            "the embedded model's exam, under settings or all methods",
            "Sit the held-out exam on drawn clips; what is there is not made again.",
            (
                "aot exam --questions 40 --settings full aot@10%     a minute on two cores",
                "aot exam methods --only methods --retention 10% --page results.md",
            ),
        ),
        "eval": Command(
            "llava.eval.evaluate",
            "models × settings × benchmarks, resumable",
            "Run models under settings on lmms-eval's tasks, and resume.",
            (
                "aot eval tiny                         the embedded model: two minutes, no GPU",
                "aot eval main-ov --nproc_per_node 8   a published table, on eight GPUs",
                "aot eval main-ov --embedded --limit 2 --pages tables     its rows on the CPU",
                "aot eval --name ov --model llava_onevision_aot --model-path CHECKPOINT \\",
                "    --args max_frames_num=32 --tasks videomme --retention 25% 10%",
            ),
        ),
        "report": Command(
            "llava.eval.report",
            "tables of what was run, beside published ones",
            "Write what sweeps and exams found: tables with intervals, and pictures.",
            ("aot report runs/sweeps/tiny", "aot report runs/exam --page docs/results.md"),
        ),
        "leaderboard": Command(
            "llava.eval.leaderboard",
            "add exams to the leaderboard; scores every entry again",
            "Write exams as entries, score all entries again, and write the page.",
            ("aot leaderboard runs/exam", "aot leaderboard     check what is there"),
        ),
    },
    "models and shell": {
        "download": Command(
            "llava.eval.download",
            "fetch checkpoints and benchmarks; asks first",
            "Fetch checkpoints and benchmarks; tells sizes and licences and asks first.",
            ("aot download ov-7b --list", "aot download ov-7b videomme"),
        ),
        "convert": Command(
            "llava.model.convert",
            "write a checkpoint in the layout that vLLM reads",
            "Write a LLaVA-NeXT checkpoint in the layout that vLLM reads.",
            ("aot convert lmms-lab/llava-onevision-qwen2-7b-ov ov-7b",),
        ),
        "train": Command(
            "llava.train.train",
            "train a model on conversations about videos",
            "Train on LLaVA's conversations; also takes all of TrainingArguments.",
            (
                "aot train --data_path data.json --retention 10% --output_dir runs/mine",
                "bash scripts/finetune.sh     the same, on all GPUs",
            ),
            passes_on=True,
        ),
        "train-tiny": Command(
            "aot_tiny.training.train",
            "train a stage of the embedded model",
            "Train the embedded model, one stage a call; called again, it goes on.",
            (
                "aot train-tiny --stage tower --output runs/film/tower",
                "bash scripts/train_tiny.sh     all stages, one after another",
            ),
        ),
        "export": Command(
            "aot_tiny.training.export",
            "make a checkpoint of a finished training",
            "Turn a finished training run into a checkpoint.",
            ("aot export --run runs/aot-tiny --output checkpoints/mine",),
        ),
        "completion": Command(
            "aot_cli.completion",
            "completion of commands and options for your shell",
            "Print a script that completes commands and options.",
            (
                "aot completion bash > ~/.local/share/bash-completion/completions/aot",
                "aot completion zsh > ~/.zfunc/_aot      a folder that $fpath names",
            ),
        ),
    },
}
COMMANDS = {name: command for commands in GROUPS.values() for name, command in commands.items()}
