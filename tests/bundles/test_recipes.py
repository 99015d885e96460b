"""The recipes of docs/readers.md, compiled as they stand there, while versions come and go."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
from itertools import pairwise
from pathlib import Path

import pytest

from agent.bundles.layout import Layout
from agent.bundles.retention import delete, take_away
from agent.units import Version

PAGE = Path(__file__).parents[2] / "docs" / "readers.md"
_CPP = r"""
#include <iostream>
#include <set>
int main(int, char** words) {
  long reads = 0, mixed = 0, missing = 0;
  std::set<std::string> seen;
  std::cout << "reading" << std::endl;
  while (access(words[2], F_OK) != 0) {
    try {
      Bundle bundle(words[1]);
      std::set<std::string> parts{bundle.read("a"), bundle.read("b"), bundle.version};
      ++reads;
      mixed += parts.size() != 1;
      seen.insert(bundle.version);
    } catch (const std::exception& error) {
      ++missing;
      std::cerr << error.what() << "\n";
    }
  }
  std::cout << reads << " " << mixed << " " << missing << " " << seen.size() << std::endl;
}
"""
_RUST = r"""
fn main() {
    let words: Vec<String> = std::env::args().collect();
    let (mut reads, mut mixed, mut missing) = (0u64, 0u64, 0u64);
    let mut seen = std::collections::HashSet::new();
    println!("reading");
    while !Path::new(&words[2]).exists() {
        let once = || -> Result<(Vec<u8>, Vec<u8>, String)> {
            let bundle = Bundle::open(Path::new(&words[1]))?;
            Ok((bundle.read("a")?, bundle.read("b")?, bundle.version.clone()))
        };
        match once() {
            Ok((a, b, version)) => {
                reads += 1;
                mixed += (a != b || a != version.as_bytes()) as u64;
                seen.insert(version);
            }
            Err(error) => { missing += 1; eprintln!("{error}"); }
        }
    }
    println!("{reads} {mixed} {missing} {}", seen.len());
}
"""


def recipe(language: str) -> str:
    (found,) = re.findall(rf"```{language}\n(.*?)```", PAGE.read_text(), re.DOTALL)
    return str(found)


def built(tmp: Path, language: str) -> Path:
    compiler, suffix, tail = {
        "cpp": ("c++", ".cpp", _CPP),
        "rust": ("rustc", ".rs", _RUST),
    }[language]
    if shutil.which(compiler) is None:
        pytest.skip(f"needs {compiler}")
    source, target = tmp / f"reader{suffix}", tmp / "reader"
    source.write_text(recipe(language) + tail)
    options = ["-std=c++17", "-Wall", "-Wextra", "-Werror"] if language == "cpp" else []
    command = [compiler, "-O", *options, "-o", str(target), str(source)]
    if language == "rust":
        command[1:2] = ["-Copt-level=1"]
        if os.uname().machine != "x86_64":
            pytest.skip("the flag in the recipe is that of x86-64")
        offline = subprocess.run([compiler, "--version"], capture_output=True, check=False)
        if offline.returncode != 0:
            pytest.skip("rustc does not run here")
    done = subprocess.run(command, capture_output=True, text=True, timeout=120, check=False)
    assert done.returncode == 0, done.stderr
    return target


@pytest.mark.parametrize("language", ["cpp", "rust"])
def test_a_recipe_gives_no_mixture_and_misses_nothing_under_flips_and_collection(
    tmp_path: Path, language: str
) -> None:
    program = built(tmp_path, language)
    layout = Layout(tmp_path / "models")
    layout.prepare()
    stop = tmp_path / "stop"
    versions = []
    for number in range(400):
        folder = layout.folder(Version(f"v{number}"))
        folder.mkdir()
        for name in ("a", "b"):
            (folder / name).write_text(folder.name)
        versions.append(Version(folder.name))
    layout.current.symlink_to("bundles/v0")
    readers = [
        subprocess.Popen(
            [str(program), str(layout.root), str(stop)],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        for _ in range(2)
    ]
    removed = 0
    try:
        for process in readers:
            assert process.stdout is not None
            assert process.stdout.readline() == "reading\n"
        waiting: list[Version] = []
        for old, version in pairwise(versions):
            link = layout.root / ".new"
            link.symlink_to(f"bundles/{version}")
            link.replace(layout.current)
            waiting.append(old)
            for one in list(waiting):
                taken = take_away(layout, one)
                if taken is not None:
                    waiting.remove(one)
                    removed += 1
                    delete(taken)
    finally:
        stop.touch()
        told = [process.communicate(timeout=30) for process in readers]
    for out, errors in told:
        reads, mixed, missing, seen = map(int, out.split())
        assert (mixed, missing) == (0, 0), errors
        assert reads > 50
        assert seen > 1, "this reader saw no flip, so it proved nothing"
    assert removed > 300
