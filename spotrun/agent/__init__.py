"""spotrun.agent"""
