"""What people declare about stored data: readings annulled and restored, devices forgotten.

The commands, the API and the flush share it.
"""
