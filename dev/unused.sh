#!/usr/bin/env bash
# Dead weight that the compiler does not see: dependencies that no source names, and empty files. A dependency that is there for its
# features only says so in a comment on the line before.
set -euo pipefail
cd "$(dirname "$0")/.."

python3 - <<'PY'
import os
import re
import subprocess
import sys
import tomllib

tracked = [path for path in subprocess.check_output(["git", "ls-files"], text=True).split("\n") if os.path.isfile(path)]
problems = [f"{path} is empty" for path in tracked if os.path.getsize(path) == 0]
named = set()
for manifest in (path for path in tracked if path.endswith("Cargo.toml")):
    text = open(manifest, encoding="utf-8").read()
    read = tomllib.loads(text)
    own = {name for kind in ("dependencies", "dev-dependencies", "build-dependencies") for name in read.get(kind, {})}
    named |= own
    folder = os.path.dirname(manifest)
    if not folder:
        continue
    sources = "".join(open(path, encoding="utf-8").read() for path in tracked if path.startswith(f"{folder}/") and path.endswith(".rs"))
    for name in sorted(own):
        for_features = re.search(rf"^# For its features only.*\n{re.escape(name)}\b", text, re.M)
        if not for_features and not re.search(rf"\b{name.replace('-', '_')}\b", sources):
            problems.append(f"{manifest}: no source names {name}")
workspace = tomllib.loads(open("Cargo.toml", encoding="utf-8").read())["workspace"]["dependencies"]
problems += [f"Cargo.toml: no member depends on {name}" for name in sorted(set(workspace) - named)]
for problem in problems:
    print(problem, file=sys.stderr)
sys.exit(bool(problems))
PY
