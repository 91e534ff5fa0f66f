package drill

// Judge is judge, for tests.
func (r *Report) Judge(o Objective) { r.judge(o, false) }

// JudgeCatalog is judge where an earlier catalog was put back.
func (r *Report) JudgeCatalog(o Objective) { r.judge(o, true) }

// Complaints is what a status complains of beside its blocks.
var Complaints = troubles

// Acts are what operators do.
func Acts() []Scenario { return (&operator{}).acts() }
