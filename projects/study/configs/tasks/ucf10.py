_base_ = '../real_clips.py'
