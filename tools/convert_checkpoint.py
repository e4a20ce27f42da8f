r"""Hugging Face folder <-> Megatron-Core checkpoint, with Megatron-LM's flags.

python tools/convert_checkpoint.py --model-type GPT --loader hf --saver core \
    --load /models/Llama-3-8B --save checkpoints/llama3-8b
"""

import argparse
import sys
from pathlib import Path

from megatron_math.base.errors import EXIT_BAD_INPUT, EXIT_FAILED, UserError
from megatron_math.base.log import log, set_up_logging
from megatron_math.convert.config import ConvertConfig
from megatron_math.convert.folder import Direction, convert_folder

KINDS = ("hf", "core")


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(
        description="Convert weights both ways, in one process; writes a receipt.json."
    )
    add = parser.add_argument
    add("--model-type", choices=["GPT"], default="GPT", help="the only kind there is here")
    add("--loader", choices=KINDS, help="kind of --load; default: found by looking")
    add("--saver", choices=KINDS, help="kind of --save; default: the other one")
    add("--load", required=True, type=Path, help="Hugging Face folder, or folder of checkpoints")
    add("--save", required=True, type=Path, help="new folder to write")
    add("--iteration", type=int, help="which checkpoint to export; default: the newest")
    add("--tokenizer-model", type=Path, help="tokenizer folder or file to ship with an export")
    add(
        "--receipt-dtype",
        choices=["fp32", "weights"],
        default="fp32",
        help="number type in which logits are compared (fp32: 4 bytes a parameter of memory)",
    )
    args = parser.parse_args(arguments)
    set_up_logging()
    try:
        receipt = convert_folder(
            args.load,
            args.save,
            direction=_direction(args.loader, args.saver),
            iteration=args.iteration,
            tokenizer=args.tokenizer_model,
            settings=ConvertConfig(receipt_dtype=args.receipt_dtype),
        )
    except UserError as error:
        print(error, file=sys.stderr)
        return EXIT_BAD_INPUT
    except OSError as error:
        print(error, file=sys.stderr)
        return EXIT_FAILED
    log.info("largest logit difference %.2e", receipt["largest_logit_difference"])
    return 0


def _direction(loader: str | None, saver: str | None) -> Direction:
    if loader is not None and loader == saver:
        raise UserError(f"--loader and --saver are both {loader}; give one of each kind")
    if loader is None and saver is None:
        return "auto"
    is_import = loader == "hf" or saver == "core"
    return "hf-to-core" if is_import else "core-to-hf"


if __name__ == "__main__":
    sys.exit(main())
