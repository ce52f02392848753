"""spotrun.cost"""
