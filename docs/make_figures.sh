#!/usr/bin/env bash
# Makes the pictures of docs/method.md, after the commands of docs/tutorial.md, with Chromium for that of the page.
set -euo pipefail
cd "$(dirname "$0")/.."
out=work_dirs/figures
python tools/inspect_attention.py data/my_videos/left/00000_left.mp4 --config my_config.py \
    --checkpoint work_dirs/mine/epoch_5.pth --labels data/my_videos/label_map.txt --out $out
mkdir -p docs/figures
cp $out/summary.png docs/figures/summary.png
chromium --headless --no-sandbox --disable-gpu --hide-scrollbars --window-size=1280,1000 \
    --screenshot=docs/figures/inspector.png "file://$PWD/$out/index.html" 2>/dev/null
python - <<'PYTHON'
from PIL import Image

for name, width in (('summary', 1300), ('inspector', 1000)):  # small enough for a page
    path = f'docs/figures/{name}.png'
    picture = Image.open(path).convert('RGB')
    picture = picture.resize((width, round(picture.height * width / picture.width)), Image.LANCZOS)
    picture.save(path, optimize=True)
PYTHON
