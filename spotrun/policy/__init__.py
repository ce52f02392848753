"""spotrun.policy"""
