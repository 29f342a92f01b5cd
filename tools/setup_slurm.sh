#!/usr/bin/env bash
# Installs what the Slurm tests need, on Debian and Ubuntu, as root: `bash tools/setup_slurm.sh`.
#
# Slurm's programs alone: no daemon is started and no service is set up. The tests start a cluster of
# their own on 127.0.0.1 and stop it again.
set -euo pipefail

missing=()
for pair in slurmctld:slurmctld slurmd:slurmd sbatch:slurm-client munged:munge; do
    PATH=$PATH:/usr/sbin command -v "${pair%:*}" >/dev/null || missing+=("${pair#*:}")
done
if [ ${#missing[@]} = 0 ]; then
    echo "Slurm is there already"
    exit
fi
if [ "$(id -u)" != 0 ] || ! command -v apt-get >/dev/null; then
    echo "Slurm is missing and this is not root on Debian or Ubuntu: install ${missing[*]}" >&2
    exit 1
fi

policy=/usr/sbin/policy-rc.d # asked by Debian's packages before they start a daemon; 101 is no
if [ ! -e "$policy" ]; then
    trap 'rm -f "$policy"' EXIT
    printf '#!/bin/sh\nexit 101\n' >"$policy"
    chmod +x "$policy"
fi
export DEBIAN_FRONTEND=noninteractive
apt-get update -q
apt-get install -y -q --no-install-recommends "${missing[@]}"
