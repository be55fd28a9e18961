"""A study: training time on machines that were not available, computed from the compiled step and data sheets."""
