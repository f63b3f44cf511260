"""What everything else stands on: errors, random streams, devices, progress, results that
resume.
"""
