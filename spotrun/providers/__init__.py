"""spotrun.providers"""
