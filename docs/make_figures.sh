#!/usr/bin/env bash
# Makes the pictures of docs/method.md, after the commands of docs/tutorial.md, with Chromium for that of the page.
set -euo pipefail
cd "$(dirname "$0")/.."
out=work_dirs/figures
mmsifa inspect data/my_videos/left/00000_left.mp4 --config my_config.py \
    --checkpoint work_dirs/mine/epoch_5.pth --labels data/my_videos/label_map.txt --out $out
mkdir -p docs/figures
cp $out/summary.png docs/figures/summary.png
chromium --headless --no-sandbox --disable-gpu --hide-scrollbars --window-size=1280,1000 \
    --screenshot=docs/figures/inspector.png "file://$PWD/$out/index.html" 2>/dev/null
python - <<'PYTHON'
from PIL import Image

for name in ('summary', 'inspector'):  # small enough for a page
    path = f'docs/figures/{name}.png'
    picture = Image.open(path).convert('RGB')
    picture.thumbnail((1300, 1300), Image.LANCZOS)
    picture.quantize(256, Image.Quantize.FASTOCTREE).save(path, optimize=True)
PYTHON
