"""The shipped configs, and what each overlay is laid over: its first line says so."""

from pathlib import Path

import yaml

ROOT = Path(__file__).parents[2]
CONFIGS = ROOT / "configs"
BENCHMARKS = ROOT / "benchmarks"
MARK = "# over: "


def shipped(under: str = "") -> list[str]:
    """All configs, or those of a folder, relative to configs/."""
    return sorted(str(path.relative_to(CONFIGS)) for path in (CONFIGS / under).rglob("*.yaml"))


def over(path: Path) -> list[str]:
    """What a config is laid over, relative to configs/, in order; nothing for a full config."""
    first = path.read_text().splitlines()[0]
    return first.removeprefix(MARK).split() if first.startswith(MARK) else []


def options(path: Path) -> list[str]:
    """The options that run a config over what it is laid over."""
    files = [*(CONFIGS / name for name in over(path)), path]
    return [word for file in files for word in ("--config", str(file))]


def arguments(name: str) -> list[str]:
    """The options that run a shipped config, named relative to configs/."""
    return options(CONFIGS / name)


def laid(path: Path, small: dict[str, object]) -> list[str]:
    """Write an overlay; the options that lay it over what stands before it."""
    path.write_text(yaml.safe_dump(small))
    return ["--config", str(path)]
