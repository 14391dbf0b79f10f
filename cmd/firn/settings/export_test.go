package settings

// CheckFile judges the form and the values of a file.
func (s *Set) CheckFile(path string, body []byte) []error {
	given, problems := s.parseFile(path, body)
	for name, a := range given {
		if _, err := s.byName[name].parse(a.values); err != nil {
			problems = append(problems, problem(a.where, a.text(), err))
		}
	}
	return problems
}
