"""`results.md`: what was found, in words and tables."""

import json


def write_page(results):
    """Write the page of what all sections found."""
    machine, sections = results["machine"], results["sections"]
    lines = ["# What the library does on a GPU", ""]
    if machine["card"] is None:
        lines += [
            "**There is no GPU here.** The script ran to its end on the CPU with tiny models, which shows that it "
            "runs. No figure below means anything.",
            "",
        ]
    else:
        lines += [
            f"One {machine['card']} ({machine['card_memory_gb']} GB), CUDA {machine['cuda']}, Python "
            f"{machine['python']}. All of it took {results['seconds']:.0f} s.",
            "",
        ]
    lines += [", ".join(f"{name} {version}" for name, version in machine["versions"].items()) + ".", ""]
    lines += ["| section | outcome | seconds |", "|---|---|---|"]
    lines += [f"| {name} | {outcome(found)} | {found.get('seconds', 0):.0f} |" for name, found in sections.items()]
    for name, found in sections.items():
        lines += ["", f"## {name}", ""]
        if "failed" in found:
            lines += ["```", found["failed"].strip(), "```"]
        lines += list(table({key: each for key, each in found.items() if key != "failed"}))
    return "\n".join(lines) + "\n"


def outcome(found):
    """Return in a word or a sentence what became of a section."""
    if "failed" in found:
        return f"**failed**: {found['failed'].strip().splitlines()[-1][:150]}"
    return f"skipped: {found['skipped']}" if "skipped" in found else "done"


def table(found):
    """Yield the rows of a table of nested figures."""
    yield "| what | figure |"
    yield "|---|---|"
    for name, value in flat(found):
        yield f"| {name} | {shown(value)} |"


def flat(found, before=""):
    """Yield nested figures with their paths."""
    for name, value in found.items():
        path = f"{before}{str(name).replace('_', ' ')}"
        if isinstance(value, dict):
            yield from flat(value, f"{path}: ")
        else:
            yield path, value


def shown(value):
    """Write a figure with four digits."""
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        return str(value if isinstance(value, (str, bool)) else json.dumps(value, ensure_ascii=False)).replace(
            "|", "/"
        )
    return f"{value:,}" if isinstance(value, int) else f"{value:,.4g}" if abs(value) < 1e6 else f"{value:.4g}"
