"""spotrun.job"""
