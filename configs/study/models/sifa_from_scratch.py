_base_ = '_base_/sifa_net.py'

trunk = None
