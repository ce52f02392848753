"""spotrun.checkpoint"""
