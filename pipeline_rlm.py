class CodeRegressionPipeline:
    pass
