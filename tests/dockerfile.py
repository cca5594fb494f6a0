"""Execute a Dockerfile without a container engine: each stage is an overlay over this machine's root folder.

Differences from an engine: the base image is this machine, with the Python of these tests and none of its environments;
uv links packages to its cache instead of copying and compiling 6 GB.
"""

from __future__ import annotations

import contextlib
import json
import os
import re
import shlex
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path

PATH = f"{sys.base_prefix}/bin:/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
CACHE = "/var/cache/uv"
MOUNT = f"--mount=type=cache,target={CACHE} "
REGISTRY = re.compile("PIP_|SSL_|UV_(?!CACHE_DIR)|HTTPS?_PROXY$|NO_PROXY$", re.IGNORECASE)  # how packages are reached
UV = {"UV_LINK_MODE": "symlink", "UV_COMPILE_BYTECODE": "0"}


class Mounts:
    """Mount namespace, with a file system in memory on `out`, where shell commands are run."""

    def __init__(self, keeper: int, out: Path) -> None:
        self.keeper, self.out = keeper, out

    def run(self, script: str, network: bool = True) -> str:
        """Run a script, without `network` with a loopback of its own, and return what it prints.

        Raises:
            AssertionError: it failed; the message holds its output.
        """
        words = ["nsenter", f"--mount=/proc/{self.keeper}/ns/mnt"]
        if not network:
            words, script = [*words, "unshare", "--net"], f"ip link set lo up\n{script}"
        words += ["sh", "-ec", script]
        done = subprocess.run(words, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, check=False)
        assert not done.returncode, f"{script}\n{done.stdout}"
        return done.stdout


@contextlib.contextmanager
def mounts(out: Path) -> Iterator[Mounts]:
    """Open a mount namespace; its mounts end with it."""
    script = f"mount -t tmpfs -o mode=755 none {out} && echo mounted && exec cat"
    words = ["unshare", "--mount", "sh", "-ec", script]
    with subprocess.Popen(words, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as keeper:
        assert keeper.stdin and keeper.stdout and keeper.stdout.readline() == "mounted\n"
        yield Mounts(keeper.pid, out)
        keeper.stdin.close()


@dataclass(frozen=True)
class Stage:
    """Stage after some of its instructions.

    Attributes:
        layers: folders of its overlay, the highest first.
        env, folder, user, command, health: set by ENV, WORKDIR, USER, CMD and HEALTHCHECK.
    """

    within: Mounts
    layers: tuple[Path, ...] = ()
    env: dict[str, str] = field(default_factory=lambda: {"PATH": PATH})
    folder: str = "/"
    user: str = "0"
    command: tuple[str, ...] = ()
    health: tuple[str, ...] = ()

    @property
    def root(self) -> Path:
        """Where it is mounted."""
        return self.layers[0] / "root"

    def child(self, cache: Path) -> Stage:
        """Mount a stage over this one."""
        folder = self.within.out / str(len(list(self.within.run(f"ls {self.within.out}").split())))
        stage = replace(self, layers=(folder, *self.layers))
        below = ":".join([*(f"{layer}/upper" for layer in self.layers), "/"])
        options = f"lowerdir={below},upperdir={folder}/upper,workdir={folder}/work"
        lines = [f"mkdir -p {folder}/upper {folder}/work {stage.root}"]
        lines += [f"mount -t overlay overlay -o {options} {stage.root}", f"mkdir -p {stage.root}{CACHE}"]
        lines += [f"mount --bind {cache} {stage.root}{CACHE}"]
        lines += [f"mount --rbind /{name} {stage.root}/{name}" for name in ("proc", "dev")]
        if not self.layers:  # a base image has no people, and all its users reach Python
            lines.append(f"sed -i -E '/^([^:]*:){{2}}1[0-9]{{3}}:/d' {stage.root}/etc/passwd {stage.root}/etc/group")
            lines += [f"chmod a+x {stage.root}{parent}" for parent in Path(sys.base_prefix).parents]
        self.within.run("\n".join(lines))
        return stage

    def run(self, script: str, network: bool = True) -> str:
        """Run a script in it, as its user, with the variables of a container; as `Mounts.run`."""
        registry = {k: v for k, v in os.environ.items() if REGISTRY.match(k)}
        home = "/root" if self.user == "0" else "/tmp"
        variables = [f"{k}={v}" for k, v in ({"HOME": home} | registry | self.env | UV).items()]
        words = ["chroot", f"--userspec={self.user}:{self.user}", str(self.root), "env", "-i", *variables]
        words += ["sh", "-ec", f"cd {shlex.quote(self.folder)}\n{script}"]
        return self.within.run(shlex.join(words), network)


def instructions(file: Path) -> list[tuple[str, str]]:
    """Return the instructions of a Dockerfile, each as its name and the rest of its line."""
    lines = [line for line in file.read_text("utf-8").splitlines() if line.strip() and not line.startswith("#")]
    text = re.sub(r"\\\n\s*", "", "\n".join(lines))
    return [(name, rest) for name, _, rest in (line.partition(" ") for line in text.splitlines())]


def build(file: Path, context: Path, within: Mounts, cache: Path, **arguments: str) -> Stage:
    """Execute the instructions of all stages.

    Args:
        context: the folder that COPY copies from.
        cache: the folder for `RUN --mount=type=cache`.
        arguments: build arguments, all declared before the first FROM.

    Returns:
        The last stage.
    """
    ignored = file.with_name(f"{file.name}.dockerignore").read_text("utf-8").split()
    ignore = shutil.ignore_patterns(*(line.removeprefix("**/") for line in ignored))
    values: dict[str, str] = {}
    stages: dict[str, Stage] = {}
    name, stage = "", Stage(within)
    for word, rest in instructions(file):
        known = values | stage.env
        if word != "RUN":
            rest = re.sub(r"\$\{?(\w+)\}?", lambda match, known=known: known[match[1]], rest)  # type: ignore[misc]
        if word == "ARG":
            key, _, default = rest.partition("=")
            values[key] = arguments.pop(key, default)
        elif word == "FROM":
            assert not arguments, f"not declared: {arguments}"
            parent, _, name = rest.partition(" AS ")
            assert parent in stages or re.fullmatch(r"python:3\.\d+-slim", parent), parent
            stage = stages.get(parent, Stage(within)).child(cache)
        elif word == "RUN":
            stage.run(rest.removeprefix(MOUNT))
        elif word == "COPY" and rest.startswith("--from="):
            source, path, target = rest.removeprefix("--from=").split()
            within.run(f"cp -a {stages[source].root}{path} {stage.root}{target}")
        elif word == "COPY":
            *paths, target = rest.split()
            for path in paths:
                with tempfile.TemporaryDirectory() as folder:
                    copy = Path(folder, path)
                    if (context / path).is_dir():
                        shutil.copytree(context / path, copy, ignore=ignore)
                    else:
                        shutil.copy(context / path, copy)
                    within.run(f"cp -a {copy} {stage.root}{Path(stage.folder, target)}")
        elif word == "ENV":
            stage = replace(stage, env=stage.env | dict(pair.split("=", 1) for pair in shlex.split(rest)))
        elif word == "WORKDIR":
            within.run(f"mkdir -p {stage.root}{rest}")
            stage = replace(stage, folder=rest)
        elif word == "USER":
            stage = replace(stage, user=rest)
        elif word in ("CMD", "HEALTHCHECK"):
            key = "command" if word == "CMD" else "health"
            stage = replace(stage, **{key: tuple(json.loads(rest[rest.index("[") :]))})
        else:
            raise AssertionError(f"{word} {rest}: this instruction is not known here")
        stages[name] = stage
    return stage
