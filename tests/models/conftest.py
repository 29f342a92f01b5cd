"""Files of 2D networks."""

import pytest
import torch
from mmaction.models.backbones.swin import SwinTransformer3D
from small_networks import ARCH, randomized, torchvision_weights


@pytest.fixture(scope='session')
def weights_file(tmp_path_factory):
    torch.manual_seed(1)
    path = tmp_path_factory.mktemp('weights') / 'resnet50.pth'
    torch.save(torchvision_weights(), path)
    return str(path)


@pytest.fixture(scope='session')
def swin():
    """A 2D Swin: MMAction2's, with windows and patches of one frame."""
    torch.manual_seed(0)
    net = randomized(SwinTransformer3D(ARCH, window_size=(1, 7, 7), patch_size=(1, 4, 4)))
    net.eval()  # returns None there
    return net


@pytest.fixture(scope='session')
def official_file(swin, tmp_path_factory):
    """The 2D Swin's weights in the official naming and layout, with its buffers and classifier."""
    weights = {k.replace('norm3.', 'norm.'): v.clone() for k, v in swin.state_dict().items()}
    weights['patch_embed.proj.weight'] = weights['patch_embed.proj.weight'].squeeze(2)
    weights['layers.0.blocks.1.attn_mask'] = torch.zeros(64, 49, 49)
    weights['head.weight'] = torch.zeros(1000, 128)
    path = tmp_path_factory.mktemp('swin') / 'swin.pth'
    torch.save({'model': weights}, path)
    return str(path)
