"""Say by the exit status whether this Python has what `make gpu` needs, so that nothing has to be installed."""

import sys

from install import has_nvidia_gpu

NEEDED = ("torch", "transformers", "sentence_transformers", "datasets", "dp_accounting", "opendp", "peft")
OLDEST = {"transformers": 5, "sentence_transformers": 6}


def lacking():
    """Return what is missing, in words. Empty if nothing is."""
    for name in NEEDED:
        try:
            module = __import__(name)
        except Exception as error:  # What is half installed raises other errors than ImportError.
            return f"{name} cannot be imported ({type(error).__name__})"
        own = module.__version__.split(".")[0] if name in OLDEST else "0"
        if int(own) < OLDEST.get(name, 0):
            return f"{name} {module.__version__} is too old, as {OLDEST[name]} is needed"
        if name == "torch" and has_nvidia_gpu() and not module.cuda.is_available():
            return f"torch {module.__version__} cannot use the GPU of this machine"
    return ""


if __name__ == "__main__":
    missing = lacking()
    if missing:
        print(f"The packages of {sys.executable} are not used: {missing}.")
    sys.exit(1 if missing else 0)
