"""What a run needs beside its model: loops, hooks, and patches of upstream."""
