"""Patches of what fails while MMAction2 is imported."""

import importlib
import sys
from types import ModuleType, SimpleNamespace

import pytest
from mmaction.models import localizers
from mmaction.registry import MODELS
from mmaction.utils import dependency

from mmsifa.engine.patches import imports


def test_building_drn_says_why_it_is_missing():
    with pytest.raises(ImportError, match='open-mmlab/mmaction2#2714'):
        MODELS.build(dict(type='DRN'))


def test_a_real_drn_wins(tmp_path, monkeypatch):
    (tmp_path / 'drn').mkdir()
    (tmp_path / 'drn/__init__.py').touch()
    (tmp_path / 'drn/drn.py').write_text('DRN = "real"')
    monkeypatch.setattr(localizers, '__path__', [*localizers.__path__, str(tmp_path)])
    for name in ('mmaction.models.localizers.drn', 'mmaction.models.localizers.drn.drn'):
        monkeypatch.delitem(sys.modules, name)
    assert importlib.import_module('mmaction.models.localizers.drn.drn').DRN == 'real'


def test_no_finder_where_the_wheel_has_drn(tmp_path, monkeypatch):
    (tmp_path / 'models/localizers/drn').mkdir(parents=True)
    spec = SimpleNamespace(submodule_search_locations=[str(tmp_path)])
    monkeypatch.setattr(imports.importlib.util, 'find_spec', lambda name: spec)
    monkeypatch.setattr(sys, 'meta_path', [])
    imports.patch_missing_drn.__wrapped__()  # past the cache
    assert sys.meta_path == []


def test_multimodal_models_say_what_they_need_where_it_is_missing():
    with pytest.raises(ImportError, match='requires extra multi-modal dependencies'):
        MODELS.build(dict(type='VindLUVQA'))


@pytest.mark.parametrize(
    ('name', 'works'), [('find_pruneable_heads_and_indices', True), ('', False)]
)
def test_multimodal_models_are_left_alone_where_their_needs_are_met(monkeypatch, name, works):
    """With stand-ins: timm does not import beside every torch."""
    for package in ('timm', 'timm.models', 'timm.models.layers', 'transformers.modeling_utils'):
        monkeypatch.setitem(sys.modules, package, ModuleType(package))
    setattr(sys.modules['transformers.modeling_utils'], name, None)
    monkeypatch.setattr(dependency, 'WITH_MULTIMODAL', True)
    imports.patch_multimodal_import.__wrapped__()  # past the cache
    assert works == dependency.WITH_MULTIMODAL
