"""What all other rooms use: errors, files, seeds, processes, devices and the context of long work.

Contract: knows no data and no model, and imports torch only inside functions.
Pitfall: modules that .dvcignore lists can never change a result; keep it that way, or take them off the list.
"""
