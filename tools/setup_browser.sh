#!/usr/bin/env bash
# Installs what the browser tests need, on Debian and Ubuntu, as root: `bash tools/setup_browser.sh`.
#
# Chromium and the driver that Selenium steers it by.
set -euo pipefail

if command -v chromium >/dev/null && command -v chromedriver >/dev/null; then
    echo "Chromium and its driver are there already"
    exit
fi
if [ "$(id -u)" != 0 ] || ! command -v apt-get >/dev/null; then
    echo "Chromium is missing and this is not root on Debian: install chromium and chromium-driver" >&2
    exit 1
fi
export DEBIAN_FRONTEND=noninteractive
apt-get update -q
apt-get install -y -q --no-install-recommends chromium chromium-driver fonts-dejavu-core
