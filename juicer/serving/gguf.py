"""A model as one GGUF file, by llama.cpp's own converter: Juicer has none of its own."""

import importlib.util
import math
import os
import subprocess
import sys
from pathlib import Path

from juicer.runtime.errors import InputError

CONVERTER = "convert_hf_to_gguf.py"


def find_converter(given: Path | None) -> Path:
    """The converter: the given file, or a file of its folder, or the one on PATH.

    Raises:
        InputError: there is none.
    """
    do = f"clone llama.cpp and its Python requirements, then name the file: --converter PATH/TO/{CONVERTER}"
    if given is not None:
        path = given / CONVERTER if given.is_dir() else given
        if not path.is_file():
            raise InputError("no such converter", where=str(path), do=do)
        return path
    # Not shutil.which: it finds only what may be executed, and the file in a clone may not.
    for folder in os.get_exec_path():
        if (path := Path(folder) / CONVERTER).is_file():
            return path
    raise InputError(f"llama.cpp's {CONVERTER} is not on PATH", do=do)


def convert(converter: Path, model: Path, out: Path, kind: str) -> str:
    """Convert a model's folder into the file `out`; returns what is in it, in words.

    Args:
        kind: type of the numbers, as the converter calls it; `auto` keeps those of the model, as far as GGUF has them.

    Raises:
        InputError: the converter fails, or what it wrote is no GGUF file with the model's weights.
    """
    command = [sys.executable, str(converter), str(model), "--outfile", str(out), "--outtype", kind]
    environment = {**os.environ, "HF_HUB_OFFLINE": "1"}
    done = subprocess.run(command, capture_output=True, text=True, check=False, env=environment)
    if done.returncode:
        lines = [line for line in (done.stderr + "\n" + done.stdout).splitlines() if line.strip()]
        errors = [line for line in lines if "error" in line.lower()] or lines or ["it said nothing"]
        do = "llama.cpp may not know this architecture; its newest converter knows the most"
        raise InputError(f"the converter failed: {errors[-1].strip()}", where=str(converter), do=do)
    if not out.is_file():
        do = "use the one of llama.cpp's newest release"
        raise InputError("the converter wrote no file", where=str(converter), do=do)
    return checked(out, model)


def checked(file: Path, model: Path) -> str:
    """What a GGUF file holds, in words, after a comparison with the model that it was made from.

    Raises:
        InputError: it is damaged, or has not as many numbers as the model.
    """
    if importlib.util.find_spec("gguf") is None:
        with file.open("rb") as opened:
            if opened.read(4) != b"GGUF":
                raise InputError("the converter's output is no GGUF file", where=str(file))
        return f"{file.stat().st_size:,} bytes, not looked into: pip install gguf"
    from gguf import GGUFReader

    from juicer.models.folder import check_folder

    try:
        reader = GGUFReader(file)
        architecture = str(reader.fields["general.architecture"].contents())
        numbers = sum(int(tensor.n_elements) for tensor in reader.tensors)
        has_template = "tokenizer.chat_template" in reader.fields
    except Exception as error:  # the reader of a damaged file raises whatever comes of it
        raise InputError(f"the converter's output is no whole GGUF file: {error}", where=str(file)) from error
    expected = sum(math.prod(shape) for shape in check_folder(model).values())
    if not 0.9 * expected <= numbers <= 1.1 * expected:  # buffers are left out, and a tied head may be written twice
        what = f"the converter's output has {numbers:,} numbers, and the model {expected:,}"
        raise InputError(what, where=str(file), do="use the converter of llama.cpp's newest release")
    template = "with its chat template" if has_template else "without a chat template: name one when you use it"
    return f"{architecture}, {len(reader.tensors)} tensors, {numbers:,} numbers, {template}"
