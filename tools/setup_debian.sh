#!/usr/bin/env bash
# Installs programs that tests need, on Debian and Ubuntu, as root:
# `bash tools/setup_debian.sh slurm` or `browser`.
#
# slurm: Slurm's programs alone. No daemon is started and no service is set up; the tests start a
# cluster of their own on 127.0.0.1 and stop it again.
# browser: Chromium, and the driver that Selenium steers it by.
set -euo pipefail

case ${1:-} in
    slurm) packages=(slurmctld:slurmctld slurmd:slurmd sbatch:slurm-client munged:munge) ;;
    browser) packages=(chromium:chromium chromedriver:chromium-driver) ;;
    *)
        echo "usage: bash $0 slurm|browser" >&2
        exit 2
        ;;
esac
missing=()
for pair in "${packages[@]}"; do # PROGRAM:PACKAGE
    PATH=$PATH:/usr/sbin command -v "${pair%:*}" >/dev/null || missing+=("${pair#*:}")
done
if [ ${#missing[@]} = 0 ]; then
    echo "The programs of $1 are there already"
    exit
fi
if [ "$(id -u)" != 0 ] || ! command -v apt-get >/dev/null; then
    echo "Programs of $1 are missing and this is not root on Debian or Ubuntu: install ${missing[*]}" >&2
    exit 1
fi
[ "$1" != browser ] || missing+=(fonts-dejavu-core)

policy=/usr/sbin/policy-rc.d # asked by Debian's packages before they start a daemon; 101 is no
if [ ! -e "$policy" ]; then
    trap 'rm -f "$policy"' EXIT
    printf '#!/bin/sh\nexit 101\n' >"$policy"
    chmod +x "$policy"
fi
export DEBIAN_FRONTEND=noninteractive
apt-get update -q
apt-get install -y -q --no-install-recommends "${missing[@]}"
