package drill

// Judge is judge, for tests.
func (r *Report) Judge(o Objective) { r.judge(o) }
