#!/usr/bin/env bash
# Everything that is measured on a GPU, where nothing can be downloaded.
#
#   benchmarks/gpu.sh [--python PYTHON] [--wheels DIR] [--purejaxrl DIR] [--out DIR]
#                     [--seconds N] [--tiny] [STEP ...]
#
# A step is `setup`, a case of throughput.py, `hotspots:NAME` (of hotspots.py), `scaling:NAME` (of
# scaling.py), `cold:NAME` (of cold.py), `fab` (fab.py), `policy:NAME` (of fab_gpu.py), or
# `curves:NAME`, an experiment or group of curves.toml. Without one: all but policies and curves.
#
#   --python     has a CUDA build of JAX, and whatever of the rest is not among the wheels
#   --wheels     DIR/ours and DIR/peers hold wheels, installed apart as two gymnax are among them:
#                `pip download --no-deps -d DIR/ours gymnax==1.0.1 tensorboardX simpy ...` and
#                `-d DIR/peers rejax==0.1.3 gymnax==0.0.9 distrax flashbax stable-baselines3 ...`.
#                Without DIR/peers ours is measured alone
#   --purejaxrl  a checkout of it
#   --out        gets the stamped results, run folders and the log; what is there, made by this
#                commit on this hardware, is not made again, so that the same command goes on after
#                an interruption. Without git, RLAX_LAB_COMMIT says which commit this is
#   --seconds    how long the whole call may take (default 540): then it ends with status 3, to be
#                called again
#   --tiny       as little work as can be, on any machine, to see that it runs
set -euo pipefail

root=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
python=python3 wheels='' purejaxrl='' out=$root/runs/gpu seconds=540 tiny='' steps=()
while (($#)); do
    case $1 in
        --tiny) tiny=--tiny; shift ;;
        --python | --wheels | --purejaxrl | --out | --seconds)
            (($# > 1)) || { echo "$1 needs a value." >&2; exit 2; }
            declare "${1#--}=$2"; shift 2 ;;
        -h | --help) sed -n '2,/^set/{/^#/s/^# \{0,1\}//p}' "$0"; exit ;;
        -*) echo "there is no option $1; see --help." >&2; exit 2 ;;
        *) steps+=("$1"); shift ;;
    esac
done
mkdir -p "$out"
out=$(cd "$out" && pwd)
ours=$out/sites/ours peers=$out/sites/peers

# Several processes share the card, and each takes what it needs.
export XLA_PYTHON_CLIENT_PREALLOCATE=false PYTHONUNBUFFERED=1

# The same interpreter with other packages before its own.
interpreter() {  # interpreter FILE PATHS
    printf '#!/bin/sh\nPYTHONPATH=%q${PYTHONPATH:+:$PYTHONPATH} exec %q "$@"\n' \
        "$2" "$(command -v "$python")" >"$1"
    chmod +x "$1"
}

setup() {
    mkdir -p "$ours" "$peers"
    for site in ours peers; do
        # One that was filled before stays.
        if compgen -G "${wheels:-/nowhere}/$site/*.whl" >/dev/null && [[ -z $(ls "$out/sites/$site") ]]; then
            "$python" -m pip install --quiet --no-index --no-deps --no-compile \
                --target "$out/sites/$site" "$wheels/$site"/*.whl
        fi
    done
    interpreter "$out/ours" "$root:$ours"
    interpreter "$out/peers" "$peers"
    "$out/ours" -c 'import jax, rlax_lab, gymnax; print("ours: jax", jax.__version__, jax.devices())'
    if [[ -n $(ls "$peers") ]]; then
        "$out/peers" -c 'import jax, rejax; print("peers: jax", jax.__version__, jax.devices())'
    fi
}

with_peers() {  # the flags of a comparison
    [[ -z $(ls "$peers") ]] || echo --peers "$out/peers" ${purejaxrl:+--purejaxrl "$purejaxrl"}
}

step() {  # step NAME, in the time that is left
    local name=$1 left=$((seconds - SECONDS)) run=(timeout --signal TERM)
    if ((left < 30)); then
        echo "$name and what follows is left: call it again."
        exit 3
    fi
    run+=("$left" "$out/ours" "$root/benchmarks")
    echo "== $name"
    case $name in
        hotspots:*) "${run[@]}/hotspots.py" "${name#*:}" --missing $tiny --out "$out" ;;
        scaling:*) "${run[@]}/scaling.py" "${name#*:}" --missing $tiny --out "$out" ;;
        cold:*)
            "${run[@]}/cold.py" "${name#*:}" $(with_peers) --missing $tiny --out "$out" ;;
        fab) "${run[@]}/fab.py" --missing $tiny --out "$out" ;;
        policy:*) "${run[@]}/fab_gpu.py" "${name#*:}" $tiny --out "$out" ;;
        curves:*)
            "${run[@]}/curves.py" "${name#*:}" --missing --work "$out/curves" --results "$out" ;;
        *) "${run[@]}/throughput.py" "$name" $(with_peers) --missing $tiny --out "$out" ;;
    esac
}

{
    [[ -x $out/ours && " ${steps[*]} " != *" setup "* ]] || setup
    if ((${#steps[@]} == 0)); then
        mapfile -t steps < <("$out/ours" "$root/benchmarks/throughput.py" --list)
        steps+=(hotspots:{ppo,dqn,fab} scaling:{environments,seeds,devices} cold:{cold,memory} fab)
    fi
    failed=()
    for name in "${steps[@]}"; do
        [[ $name == setup ]] && continue
        status=0
        (step "$name") || status=$?
        # 124: out of time, as it would be in the next step.
        ((status == 3 || status == 124)) && exit 3
        ((status == 0)) || failed+=("$name")
    done
    ((${#failed[@]} == 0)) || { echo "These failed: ${failed[*]}."; exit 1; }
} 2>&1 | tee -a "$out/log.txt"
