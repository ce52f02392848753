"""spotrun.dashboard"""
