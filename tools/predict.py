"""Name what happens in a video: the five best classes of a trained recognizer."""

import argparse
from pathlib import Path

import torch
from mmaction.apis import inference_recognizer, init_recognizer
from mmengine.config import Config

from mmsifa.checkpoint import CheckpointError
from mmsifa.models.weights import load_fitting_weights


def main() -> None:
    """Predict the videos that the command line names."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument('videos', nargs='+', type=Path, help='video files')
    parser.add_argument('--config', required=True, help='config of the recognizer')
    parser.add_argument('--checkpoint', required=True, help='its weights')
    parser.add_argument('--labels', type=Path, help='class names, one a line; default: numbers')
    parser.add_argument(
        '--device', default='cuda:0' if torch.cuda.is_available() else 'cpu', help='torch device'
    )
    args = parser.parse_args()
    missing = [str(path) for path in (*args.videos, args.labels) if path and not path.is_file()]
    if missing:
        parser.error(f'no such file: {", ".join(missing)}')

    config = Config.fromfile(args.config)
    if any(step.type == 'RawFrameDecode' for step in config.test_pipeline):
        parser.error(f'the test pipeline of {args.config} reads raw frames, not video files')
    model = init_recognizer(config, device=args.device)
    try:
        load_fitting_weights(model, args.checkpoint)
    except (CheckpointError, OSError) as error:
        parser.error(str(error))
    for video in args.videos:
        scores = inference_recognizer(model, str(video)).pred_score
        labels = args.labels.read_text().splitlines() if args.labels else range(len(scores))
        if len(labels) != len(scores):
            parser.error(f'{args.labels} has {len(labels)} names for {len(scores)} classes')
        print(video)
        best = scores.topk(min(5, len(scores)))
        for score, label in zip(best.values.tolist(), best.indices.tolist(), strict=True):
            print(f'  {100 * score:5.1f} %  {labels[label]}')


if __name__ == '__main__':
    main()
