#!/bin/bash
# bash docs/examples/ingest_ssh.sh coco /data/coco /data/shards host1 host2 ...
# writes one part on each host, then publishes them. All hosts see the folders.
# If a host failed, run the same line again: parts that are complete are checked and kept.
set -euo pipefail

format=$1 root=$2 out=$3
shift 3
parts=$# part=0 processes=()
for host in "$@"; do
    part=$((part + 1))
    ssh "$host" "$(printf '%q ' dataforge ingest "$format" "$root" --out "$out.parts/$part" --part "$part/$parts" --resume)" &
    processes+=($!)
done
for process in "${processes[@]}"; do
    wait "$process"
done
dataforge merge --parts "$out".parts/* --out "$out"
